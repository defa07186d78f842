"""What the examples in 04_model.ipynb cannot show: every kind of part, other encoders, and the
released code's defects.
"""

import re
import dataclasses
from types import SimpleNamespace
import pytest
import safetensors.torch
import timm
import torch
from torch import nn
from affnb.engine.core import AffnbError, Config, UsageError, generator
from affnb.model import (
    AffectModel,
    ConvStem,
    Fusion,
    Heads,
    MaskedAutoencoder,
    Temporal,
    build_encoder,
    draw_mask,
    hide_patches,
    make_autoencoder,
    make_encoder,
    make_model,
    patchify,
    reconstruct,
    unpatchify,
)
from affnb.engine.weights import (
    count_flops,
    count_parameters,
    load_weights,
    read_weights,
    save_weights,
    timm_weights,
)
from errors import assert_error
from toy import SMALL


def changed(**settings):
    return dataclasses.replace(SMALL, **settings)


def images(n=4, size=32):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


# ---------------------------------------------------------------- encoder
@pytest.mark.parametrize(
    "name,prefix",
    [
        ("vit_tiny_patch16_224", 1),
        ("vit_base_patch16_224", 1),
        ("vit_base_patch16_gap_224", 0),
        ("vit_base_patch14_reg4_dinov2", 5),
    ],
)
@pytest.mark.parametrize("stem", ["conv", "patch"])
def test_every_encoder_averages_patch_tokens_only(name, prefix, stem):
    encoder = build_encoder(changed(encoder=name, stem=stem)).eval()
    assert encoder.num_prefix_tokens == prefix
    assert isinstance(encoder.patch_embed, ConvStem) == (stem == "conv")
    tokens = encoder.forward_features(images())
    x = encoder(images())
    assert tokens.shape == (4, prefix + 16, 48)
    assert torch.allclose(x, encoder.fc_norm(tokens[:, prefix:].mean(1)), atol=1e-5)


@pytest.mark.parametrize(
    "name,prefix",
    [
        ("vit_tiny_patch16_224", 1),
        ("vit_base_patch16_gap_224", 0),
        ("vit_base_patch14_reg4_dinov2", 5),
    ],
)
@pytest.mark.parametrize("depth", [0, 1])
def test_weights_per_place_see_patch_tokens_only_and_know_where_they_lie(name, prefix, depth):
    encoder = build_encoder(changed(encoder=name, pool="places", depth=depth)).eval()
    assert encoder.num_prefix_tokens == prefix
    assert len(encoder.blocks) == depth
    tokens = encoder.forward_features(images())[:, prefix:]
    # normalised, as the autoencoder has them
    assert torch.allclose(tokens.mean(-1), torch.zeros(4, 16), atol=1e-5)
    assert torch.allclose(encoder(images()), encoder.attn_pool(tokens), atol=1e-5)
    by_hand = sum(tokens[:, place] * encoder.attn_pool.weight[place] for place in range(16))
    assert torch.allclose(
        encoder(images()), encoder.attn_pool.norm(encoder.attn_pool.mix(by_hand)), atol=1e-5
    )
    turned = tokens.flip(1)
    assert torch.allclose(turned.mean(1), tokens.mean(1), atol=1e-5)
    assert (encoder.attn_pool(turned) - encoder.attn_pool(tokens)).abs().max() > 0.1


def test_an_autoencoder_hands_on_an_encoder_with_weights_per_place():
    """Pretraining learns nothing for them, and leaves them in the file, so that what starts from it
    is complete.
    """
    mae = make_autoencoder(changed(pool="places"), build_encoder(changed(pool="places")))
    before = {name: value.clone() for name, value in mae.encoder.state_dict().items()}
    loss, *_ = mae(images(), generator("mask"))
    loss.backward()
    torch.optim.SGD([p for p in mae.parameters() if p.requires_grad], lr=1.0).step()
    after = mae.encoder.state_dict()
    assert all(
        torch.equal(before[name], after[name]) for name in before if name.startswith("attn_pool.")
    )
    assert not torch.equal(before["blocks.0.mlp.fc1.weight"], after["blocks.0.mlp.fc1.weight"])
    missing = [name for name, p in mae.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == [], "several processes would wait for a gradient that does not come"


def test_weights_of_others_leave_the_weights_per_place_random(tmp_path):
    sizes = dict(patch_size=8, embed_dim=48, depth=1, num_heads=3)
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10, **sizes)
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    ours = make_encoder(
        changed(stem="patch", pool="places", pretrained=str(tmp_path / "theirs.safetensors"))
    )
    assert torch.equal(ours.norm.weight, theirs.norm.weight)
    assert torch.equal(ours.pos_embed, theirs.pos_embed)
    assert ours.attn_pool.weight.std() > 0.1


@pytest.mark.parametrize("patch,size", [(2, 8), (4, 16), (8, 48), (16, 48), (32, 64)])
def test_conv_stem_gives_one_token_a_patch(patch, size):
    stem = ConvStem(size, patch, embed_dim=96)
    assert stem(images(2, size)).shape == (2, (size // patch) ** 2, 96)
    assert stem.num_patches == (size // patch) ** 2


def test_conv_stem_tokens_lie_row_by_row_where_the_patches_are():
    stem = ConvStem(48, 8, embed_dim=96).eval()
    black = torch.zeros(1, 3, 48, 48)
    spot = black.clone()
    spot[:, :, 19:21, 35:37] = 1.0  # the middle of patch row 2, column 4
    moved = (stem(spot) - stem(black)).abs().sum(-1)[0]
    assert moved.argmax() == 2 * 6 + 4
    assert (moved > 0).sum() <= 4  # only neighbours may see it


def test_a_frame_does_not_depend_on_its_batch():
    encoder = build_encoder(SMALL).train()
    encoder(images())  # BatchNorm's running averages are not those of a fresh layer any more
    encoder.eval()
    assert torch.allclose(encoder(images())[:1], encoder(images()[:1]), atol=1e-5)
    # without the stem there is no statistic of a batch at all
    plain = build_encoder(changed(stem="patch")).train()
    assert torch.allclose(plain(images())[:1], plain(images()[:1]), atol=1e-5)


def test_sizes_left_at_zero_are_the_models_own():
    encoder = build_encoder(Config(encoder="vit_tiny_patch16_224", image_size=64))
    assert (
        encoder.embed_dim,
        len(encoder.blocks),
        encoder.blocks[0].attn.num_heads,
        encoder.patch_embed.patch_size,
    ) == (192, 12, 3, (16, 16))
    assert encoder.blocks[-1].drop_path1.drop_prob == pytest.approx(0.1)


@pytest.mark.parametrize(
    "settings,words",
    [
        (dict(encoder="vit_tiny_pach16_224"), ("encoder", "vit_tiny_patch16_224")),
        (dict(encoder="resnet50"), ("encoder", "resnet50")),
        (dict(encoder="vit_tiny_patch16_224.nothing"), ("encoder", "nothing")),
        (dict(width=50), ("num_heads", "width")),
        (dict(patch_size=12), ("patch_size", "power of two")),
        (dict(image_size=36), ("image_size", "multiple")),
        (dict(image_size=36, stem="patch"), ("image_size", "multiple")),
        (dict(temporal_heads=5), ("temporal_heads", "divide")),
        (dict(mae_decoder_width=50), ("mae_decoder_width", "32")),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(settings, words):
    config = changed(**settings)
    with pytest.raises(UsageError) as error:
        encoder = make_encoder(config)
        make_autoencoder(config, encoder)
        make_model(config, encoder=encoder, fusion=True, temporal=True)
    assert_error(error, remedy=None)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "part, word",
    [
        (lambda: Heads(8, ("AU", "EXP")), "EXPR"),
        (lambda: Temporal(8, "lsmt"), "lstm"),
        (lambda: Fusion(8, 8, 1, "gated"), "gate"),
    ],
    ids=["heads", "temporal", "fusion"],
)
def test_an_unknown_word_is_refused_with_the_nearest(part, word):
    with pytest.raises(UsageError) as error:
        part()
    assert f"`{word}`" in str(error.value)


# ---------------------------------------------------------------- masked autoencoder
@pytest.mark.parametrize("stem", ["conv", "patch"])
@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "vit_base_patch16_gap_224", "vit_base_patch14_reg4_dinov2"]
)
def test_hidden_pixels_change_nothing(stem, name):
    mae = make_autoencoder(SMALL, make_encoder(changed(stem=stem, encoder=name))).eval()
    nn.init.normal_(mae.mask_token)
    x = images()
    loss, prediction, mask = mae(x, generator("mask"))
    hidden = hide_patches(torch.ones_like(x), mask, 8) == 0
    other = torch.where(hidden, torch.randn_like(x) * 3, x)
    again_loss, again, again_mask = mae(other, generator("mask"))
    assert torch.equal(mask, again_mask)
    assert torch.equal(mae.encode(x, mask), mae.encode(other, mask))
    assert torch.equal(prediction, again)
    assert loss != again_loss  # only the target knows the hidden pixels
    seen = mae(torch.where(hidden, x, torch.randn_like(x)), generator("mask"))[1]
    # while visible ones do change the prediction
    assert not torch.allclose(prediction, seen, atol=1e-3)


def test_loss_is_the_mean_square_over_hidden_patches_alone():
    mae = MaskedAutoencoder(build_encoder(SMALL), 0.75, 32, 1, 2).eval()
    x = images()
    loss, prediction, mask = mae(x, generator("mask"))
    expected = 0.0
    n = 0
    for b in range(4):
        for i in range(16):
            if not mask[b, i]:
                continue
            row, column = divmod(i, 4)
            patch = (
                x[b, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                .permute(1, 2, 0)
                .flatten()
            )
            expected = (
                expected
                + (
                    (prediction[b, i] - (patch - patch.mean()) / (patch.var() + mae.floor).sqrt())
                    ** 2
                ).mean()
            )
            n = n + 1
    assert n == 4 * 12
    assert loss.item() == pytest.approx((expected / n).item(), rel=1e-5)


def test_every_weight_of_the_autoencoder_gets_a_gradient():
    mae = make_autoencoder(SMALL, make_encoder(SMALL))
    mae(images(), generator(1))[0].backward()
    assert [n for n, p in mae.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_visible_tokens_return_to_their_places():
    # no decoder block: a patch's output depends on its own token
    mae = MaskedAutoencoder(build_encoder(SMALL), 0.5, 32, 0, 1).eval()
    mask = draw_mask(2, 16, 0.5, generator(3))
    tokens = torch.randn(2, 1 + 8, 48)
    moved = tokens.clone()
    moved[0, 1 + 5] += 1  # the sixth visible patch of the first image
    changed_patch = (mae.decode(moved, mask) != mae.decode(tokens, mask)).any(-1).nonzero()
    assert changed_patch.tolist() == [[0, (~mask[0]).nonzero()[5].item()]]


def test_masks_are_drawn_anew_and_repeat_with_the_seed():
    stream = generator("a")
    first = draw_mask(50, 36, 0.75, stream)
    second = draw_mask(50, 36, 0.75, stream)
    assert (first.sum(1) == 27).all()
    assert not torch.equal(first, second)
    assert torch.equal(first, draw_mask(50, 36, 0.75, generator("a")))
    # every place is hidden as often
    assert (torch.cat([first, second]).float().mean(0) - 0.75).abs().max() < 0.2
    # something is always visible
    assert (~draw_mask(3, 4, 0.99, stream)).sum(1).tolist() == [1, 1, 1]


def test_the_autoencoder_trains_the_tasks_own_encoder(tmp_path):
    encoder = make_encoder(SMALL)
    mae = make_autoencoder(SMALL, encoder)
    model = make_model(SMALL, encoder=encoder)
    before = encoder(images()).detach()
    optimizer = torch.optim.SGD(mae.parameters(), 0.1)
    mae(images(), generator(0))[0].backward()
    optimizer.step()
    assert mae.encoder is model.encoder
    assert not torch.allclose(encoder(images()), before)
    save_weights(mae, tmp_path / "mae.safetensors")
    assert torch.equal(
        make_encoder(changed(pretrained=str(tmp_path / "mae.safetensors")))(images()),
        encoder(images()),
    )
    other = make_encoder(SMALL)
    assert load_weights(other, tmp_path / "mae.safetensors", prefix="encoder.") == []
    assert torch.equal(other(images()), encoder(images()))


def test_reconstruction_keeps_visible_pixels_and_mode():
    mae = make_autoencoder(SMALL, make_encoder(SMALL)).train()
    masked, painted = reconstruct(mae, images(), generator("mask"))
    visible = masked != 0
    assert mae.training
    assert torch.allclose(painted[visible], images()[visible], atol=1e-4)
    assert not torch.allclose(painted, images(), atol=0.1)
    assert torch.equal(unpatchify(patchify(images(), 4), 4), images())


# ---------------------------------------------------------------- time
@pytest.mark.parametrize("kind", Temporal.KINDS)
@pytest.mark.parametrize("train", [False, True])
def test_padding_never_influences_a_valid_frame(kind, train):
    module = Temporal(24, kind, dropout=0.0).train(train)
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    x = torch.randn(3, 10, 24)
    valid = torch.arange(10) < torch.tensor([[10], [7], [1]])
    noisy = torch.where(valid[..., None], x, 100 * torch.randn_like(x))
    out = module(x, valid)
    assert torch.allclose(module(noisy, valid)[valid], out[valid], atol=1e-5)
    for row, n in enumerate((10, 7, 1)):  # as if the window had ended there
        assert torch.allclose(
            module(x[row : row + 1, :n], valid[row : row + 1, :n])[0], out[row, :n], atol=1e-5
        )


@pytest.mark.parametrize("kind", Temporal.KINDS)
def test_a_temporal_module_fits_its_heads_and_windows_of_any_length(kind):
    model = make_model(changed(temporal=kind), encoder=make_encoder(SMALL), temporal=True)
    for n in (1, 2, 31):
        batch = SimpleNamespace(
            frames=images(2 * n).unflatten(0, (2, n)),
            valid=torch.ones(2, n, dtype=torch.bool),
            features=None,
        )
        out = model(batch)
        assert {k: tuple(v.shape) for k, v in out.items()} == {
            "AU": (2, n, 12),
            "EXPR": (2, n, 8),
            "VA": (2, n, 2),
        }
    sum(v.sum() for v in out.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("kind", Temporal.KINDS)
def test_frames_hear_each_other_unless_there_is_no_module(kind):
    module = Temporal(24, kind).eval()
    valid = torch.ones(1, 6, dtype=torch.bool)
    x = torch.randn(1, 6, 24)
    other = x.clone()
    other[0, 0] += 1
    assert torch.allclose(module(x, valid)[0, 5], module(other, valid)[0, 5], atol=1e-6) == (
        kind == "none"
    )


def test_a_window_without_valid_frames_is_no_nan():
    valid = torch.tensor([[True, True, False], [False, False, False]])
    for kind in Temporal.KINDS:
        x = torch.randn(2, 3, 24, requires_grad=True)
        out = Temporal(24, kind)(x, valid)
        out[valid].sum().backward()
        assert out.isfinite().all()
        assert x.grad.isfinite().all()


def test_gru_is_a_gru_and_tcn_ends_as_narrow_as_published():
    gru, lstm, tcn = (Temporal(768, kind) for kind in ("gru", "lstm", "tcn"))
    assert isinstance(gru.net, nn.GRU)
    assert isinstance(lstm.net, nn.LSTM)
    assert count_parameters(gru) * 4 == count_parameters(lstm) * 3
    assert [block.second.out_channels for block in tcn.net] == [
        768,
        512,
        256,
    ]
    assert tcn.out_dim == 256
    assert {p.p for p in tcn.modules() if isinstance(p, nn.Dropout)} == {0.2}


# ---------------------------------------------------------------- fusion, heads, whole
@pytest.mark.parametrize("kind", Fusion.KINDS)
def test_fusion_hears_every_feature(kind):
    fusion = Fusion(16, 16, 3, kind).eval()
    x = torch.randn(2, 4, 16)
    features = torch.randn(2, 4, 3, 16, requires_grad=True)
    fusion(x, features).pow(2).sum().backward()
    assert (features.grad.abs().sum(-1) > 0).all()
    for given, n in ((features[:, :, :2], 2), (None, 0)):
        with pytest.raises(AffnbError) as error:
            fusion(x, given)
        assert re.findall(r"\d+", str(error.value)) == [str(n), "3"]


def test_only_concat_fuses_features_of_another_length():
    assert Fusion(16, 10, 2, "concat")(torch.randn(2, 4, 16), torch.randn(2, 4, 2, 10)).shape == (
        2,
        4,
        16,
    )
    for kind in ("sum", "gate"):
        with pytest.raises(UsageError, match="concat"):
            Fusion(16, 10, 2, kind)


def test_heads_are_initialised():
    torch.manual_seed(1)
    heads = Heads(768)
    for linear in heads.children():
        default = nn.Linear(768, linear.out_features)
        assert linear.weight.std().item() == pytest.approx(0.02, abs=0.003)
        assert linear.weight.abs().max() < default.weight.abs().max() * 3
        assert not linear.bias.any()
        assert default.bias.any()
    assert not torch.equal(heads.valence.weight, heads.arousal.weight)


def test_valence_comes_first():
    heads = Heads(4, ("VA",))
    with torch.no_grad():
        heads.valence.bias.fill_(1.0), heads.arousal.bias.fill_(-1.0)
    out = heads(torch.zeros(1, 4))["VA"][0]
    assert out[0] > 0 > out[1]


def test_a_model_has_the_tasks_it_was_asked_for_and_no_others():
    model = make_model(SMALL, ("VA", "AU"), encoder=48)
    batch = SimpleNamespace(
        frames=None, valid=torch.ones(2, 3, dtype=torch.bool), features=torch.randn(2, 3, 1, 48)
    )
    assert list(model(batch)) == ["AU", "VA"]
    assert count_parameters(model) == 49 * (12 + 2)
    assert model.encoder is None


# ---------------------------------------------------------------- weights
def test_weights_survive_a_file_also_where_two_names_share_a_tensor(tmp_path):
    encoder = make_encoder(SMALL)
    encoder.to(memory_format=torch.channels_last)  # not contiguous: safetensors would refuse
    model = AffectModel(encoder, None, Temporal(48), Heads(48))
    start = make_model(SMALL, encoder=make_encoder(SMALL))
    model.heads.arousal.weight = model.heads.valence.weight
    start.heads.arousal.weight = start.heads.valence.weight
    save_weights(model, tmp_path / "m.safetensors", metadata={"source": "synthetic"})
    assert len(read_weights(tmp_path / "m.safetensors")) == len(model.state_dict()) - 1
    assert load_weights(start, tmp_path / "m.safetensors") == []
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), start.state_dict().values())
    )
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize(
    "settings,tensor",
    [
        (dict(width=96), "cls_token"),
        (dict(image_size=48), "pos_embed"),
        (dict(depth=2), "blocks.1.norm1.weight"),
        (dict(patch_size=4, image_size=16), "patch_embed.convs.1.weight"),
        (dict(stem="patch"), "patch_embed.proj.weight"),
    ],
)
def test_weights_of_another_shape_name_the_tensor(tmp_path, settings, tensor):
    save_weights(make_encoder(SMALL), tmp_path / "e.safetensors")
    with pytest.raises(AffnbError) as error:
        load_weights(build_encoder(changed(**settings)), tmp_path / "e.safetensors")
    assert_error(error, remedy=None)
    assert tensor in str(error.value)
    assert "e.safetensors" in str(error.value)


def test_heads_may_be_absent_only_where_allowed_and_nothing_changes_on_an_error(tmp_path):
    one = make_model(SMALL, ("AU",), make_encoder(SMALL))
    three = make_model(SMALL, encoder=make_encoder(SMALL))
    save_weights(one, tmp_path / "au.safetensors")
    before = {n: v.clone() for n, v in three.state_dict().items()}
    with pytest.raises(AffnbError) as error:
        load_weights(three, tmp_path / "au.safetensors")
    assert "`heads.EXPR.weight`" in str(error.value)
    assert all(torch.equal(v, before[n]) for n, v in three.state_dict().items())
    kept = load_weights(three, tmp_path / "au.safetensors", optional=("heads.",))
    assert set(kept) == {
        f"heads.{h}.{p}" for h in ("EXPR", "valence", "arousal") for p in ("weight", "bias")
    }
    assert torch.equal(three.heads.AU.weight, one.heads.AU.weight)
    assert torch.equal(three.encoder.pos_embed, one.encoder.pos_embed)
    with pytest.raises(AffnbError) as error:
        load_weights(one, _saved(three, tmp_path / "all.safetensors"))
    assert re.search("`heads.(EXPR|valence|arousal).(weight|bias)`", str(error.value))


def _saved(module, path):
    save_weights(module, path)
    return path


def test_files_that_are_no_weights(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(
        _saved(nn.Linear(9, 9), tmp_path / "whole.safetensors").read_bytes()[:-7]
    )
    (tmp_path / "text.safetensors").write_text("not weights at all, really not")
    for name, words in (
        ("absent.safetensors", "no such file"),
        ("cut.safetensors", "cut short"),
        ("text.safetensors", "safetensors"),
    ):
        with pytest.raises(AffnbError, match=words):
            read_weights(tmp_path / name)
        with pytest.raises(AffnbError, match=name):
            make_encoder(changed(pretrained=str(tmp_path / name)))


def test_a_file_of_timms_own_model_loads_at_another_image_size(tmp_path):
    sizes = dict(embed_dim=48, depth=1, num_heads=3, patch_size=8)
    # class-token pooling, a classifier, norm before it
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=10, **sizes).eval()
    nn.init.normal_(theirs.norm.weight)
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    same = make_encoder(
        changed(stem="patch", image_size=64, pretrained=str(tmp_path / "timm.safetensors"))
    ).eval()
    assert torch.equal(same.fc_norm.weight, theirs.norm.weight)
    assert torch.equal(same.pos_embed, theirs.pos_embed)
    assert torch.allclose(
        same.forward_features(images(2, 64)),
        theirs.blocks(theirs._pos_embed(theirs.patch_embed(images(2, 64)))),
        atol=1e-5,
    )
    smaller = make_encoder(changed(stem="patch", pretrained=str(tmp_path / "timm.safetensors")))
    assert smaller.pos_embed.shape == (1, 17, 48)
    assert torch.equal(smaller.blocks[0].attn.qkv.weight, theirs.blocks[0].attn.qkv.weight)
    with pytest.raises(AffnbError, match="patch_embed"):
        make_encoder(changed(pretrained=str(tmp_path / "timm.safetensors"), image_size=64))


def test_weights_of_a_dinov2_load_with_their_scales_and_class_token(tmp_path):
    "timm's model with patches of 14 pixels, made small: the same features, at two image sizes."
    sizes = dict(embed_dim=48, depth=2, num_heads=3)
    theirs = timm.create_model("vit_small_patch14_dinov2", img_size=70, num_classes=0, **sizes)
    for values in (theirs.blocks[0].ls1.gamma, theirs.cls_token, theirs.norm.weight):
        nn.init.normal_(values)
    path = tmp_path / "dino.safetensors"
    safetensors.torch.save_file(theirs.state_dict(), path)
    settings = dict(encoder="vit_small_patch14_dinov2", stem="patch", pool="mean", patch_size=14)
    settings |= dict(depth=2, pretrained=str(path))
    ours = make_encoder(changed(**settings, image_size=70)).eval()
    norm, theirs.norm = theirs.norm, nn.Identity()
    tokens = theirs.eval().forward_features(images(2, 70))
    assert torch.allclose(ours(images(2, 70)), norm(tokens[:, 1:].mean(1)), atol=1e-5)
    smaller = make_encoder(changed(**settings, image_size=56))
    assert smaller.pos_embed.shape[1] in (16, 17)
    assert torch.equal(smaller.blocks[1].ls2.gamma, theirs.blocks[1].ls2.gamma)


def test_weights_that_timm_does_not_have_say_so():
    # a model without published weights
    with pytest.raises(AffnbError) as error:
        make_encoder(changed(pretrained="timm", encoder="vit_base_patch16_gap_224", stem="patch"))
    assert_error(error, "setting `pretrained` = timm", "vit_base_patch16_gap_224")


@pytest.mark.parametrize("there", ["model.safetensors", "pytorch_model.bin"])
def test_of_timms_hub_nothing_but_safetensors_is_read(there, tmp_path, monkeypatch):
    "With a hub that is a folder: what torch.load would have to read is not even asked for."
    from huggingface_hub.utils import EntryNotFoundError

    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    asked = []
    if there.endswith("safetensors"):
        safetensors.torch.save_file(theirs.state_dict(), tmp_path / there)
    else:
        torch.save(theirs.state_dict(), tmp_path / there)

    def download(repo_id, filename, **_):
        asked.append(filename)
        if filename != there:
            raise EntryNotFoundError(f"{filename}: not in {repo_id}")
        return str(tmp_path / filename)

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", download)
    config = changed(
        pretrained="timm", encoder="vit_tiny_patch16_224.augreg_in21k_ft_in1k", stem="patch"
    )
    if there.endswith("safetensors"):
        assert all(
            torch.equal(value, theirs.state_dict()[name])
            for name, value in timm_weights(config).items()
        )
    else:
        with pytest.raises(AffnbError) as error:
            timm_weights(config)
        assert_error(error, problem=(config.encoder, "EntryNotFoundError"))
    assert asked == ["model.safetensors"]


# ---------------------------------------------------------------- counting
def test_operations_are_counted_by_hand():
    fixed = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(5 * 64, 7)).train()
    assert count_flops(fixed, torch.randn(2, 3, 8, 8), frames=2) == 2 * (27 * 5 * 64 + 5 * 64 * 7)
    assert fixed.training
    frozen = nn.Linear(3, 4).requires_grad_(False)
    assert count_parameters(frozen) == 0
    assert count_flops(frozen, torch.ones(1, 3)) == 24


@pytest.mark.parametrize("kind,weights", [("lstm", 8), ("gru", 6), ("transformer", 12)])
def test_fused_kernels_are_counted_too(kind, weights):
    module = Temporal(24, kind, layers=1).eval()
    x = torch.randn(2, 10, 24)
    valid = torch.ones(2, 10, dtype=torch.bool)
    with torch.no_grad():
        flops = count_flops(module, x, valid, frames=20)
    attention = 2 * 2 * 10 * 24 if kind == "transformer" else 0
    assert flops == 2 * weights * 24 * 24 + attention
