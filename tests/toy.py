"""What several tests work with: the settings of a small model, and the toy run that
08_fusion_and_time shows things on (videos whose stored features know something of each label, and
no pixels).
"""

import nbformat
from affnb.engine.core import Config
from in_step import ROOT

SMALL = Config(
    encoder="vit_tiny_patch16_224",
    image_size=32,
    patch_size=8,
    width=48,
    depth=1,
    num_heads=3,
    stem="conv",
    drop_path=0.0,
    mae_decoder_width=32,
    mae_decoder_depth=1,
    temporal_layers=1,
)


def toy_run(folder, **settings):
    "A run in `folder`, its settings changed; made by the very cells of the notebook."
    cells = nbformat.read(ROOT / "nbs" / "08_fusion_and_time.ipynb", 4).cells
    names = {}
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    last = next(i for i, source in enumerate(sources) if "def toy_run(" in source)
    for source in sources[:last]:
        # imports, and what the toy is made of; other exported cells are imported by the test
        if source.startswith(("#| default_exp", "#| export", "import ", "def toy_")):
            exec(source, names)
    exec(sources[last].split("\nplace = ")[0], names)
    return names["toy_run"](folder).changed(**settings)
