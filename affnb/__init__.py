__version__ = "0.1.0"

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import PathFinder
from importlib.util import spec_from_loader


class _Moved(MetaPathFinder, Loader):
    """Modules that now lie in `affnb.engine` are found by their first names too, such as
    `affnb.core`: the cards of earlier models, and programs of others, use them.
    """

    def find_spec(self, fullname, path=None, target=None):
        package, _, module = fullname.rpartition(".")
        rooms = [f"{place}/engine" for place in __path__]
        if package == __name__ and PathFinder.find_spec(module, rooms):
            return spec_from_loader(fullname, self)
        return None

    def create_module(self, spec):
        room = importlib.import_module(f"affnb.engine.{spec.name.rpartition('.')[2]}")
        spec.loader_state = room.__spec__
        return room

    def exec_module(self, module):
        "It has been executed already, and keeps its own name."
        module.__spec__ = module.__spec__.loader_state


sys.meta_path.append(_Moved())
