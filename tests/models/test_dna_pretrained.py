"""Published sequence networks from folders: small configurations are made here, none is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from syncyte.errors import ConfigError, DataError, MissingExtraError
from syncyte.genome.sequence import one_hot, reverse_complement
from syncyte.models.dna_pretrained import check_windows, middle_bins, open_borzoi, open_enformer
from syncyte.models.dna_weights import package_of

SMALL = dict(
    dim=96, depth=1, heads=2, output_heads=dict(human=2), target_length=6, num_downsamples=3, dim_divisible_by=16
)


def codes(n: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, (n, length), dtype=np.uint8)


def windows(n: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(one_hot(codes(n, length, seed)))


def write(folder: Path, network: torch.nn.Module, config: dict, drop: str = "") -> Path:
    """A folder as the hub has them, with each tensor under one of its names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors, seen = {}, set()
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) not in seen and not (drop and drop in name):
            tensors[name] = tensor.detach().clone().contiguous()
        seen.add(id(tensor))
    save_file(tensors, folder / "model.safetensors")
    return folder


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():  # outputs of attention begin at zero, and would hide its positions
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def enformer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    package = pytest.importorskip("enformer_pytorch")
    network = randomised(package.Enformer(package.EnformerConfig(**SMALL)))
    return write(tmp_path_factory.mktemp("enformer"), network, {**SMALL, "model_type": "enformer"}), network


def test_bins_nearest_to_the_middle():
    assert middle_bins(896, 196_608, 128, 3) == [447, 448, 449]  # base 98,304 is the first of bin 448
    assert middle_bins(4, 32, 8, 1) == [2]  # base 16 is the first of the third bin
    assert middle_bins(4, 32, 8, 2) == [1, 2]
    assert middle_bins(5, 40, 8, 3) == [1, 2, 3]
    with pytest.raises(ConfigError, match="1 to 4"):
        middle_bins(4, 32, 8, 5)


def test_windows_are_checked():
    good = windows(2, 16)
    assert check_windows(good, 16).dtype == torch.float32
    with pytest.raises(DataError, match=r"\(n, 4, 17\)"):
        check_windows(good, 17)
    quarter = good.clone()
    quarter[0, :, 3] = 0.25  # what a dot is to enformer-pytorch
    with pytest.raises(DataError, match="four zeros"):
        check_windows(quarter, 16)
    unknown = good.clone()
    unknown[0, :, 3] = 0
    check_windows(unknown, 16)


def test_a_missing_package_names_its_extra():
    with pytest.raises(MissingExtraError, match=r"syncyte\[enformer\]"):
        package_of("enformer_pytorch_that_is_not_there", "enformer")


def test_enformer_is_what_the_package_computes(enformer: tuple[Path, torch.nn.Module]):
    folder, network = enformer
    encoder = open_enformer(folder, bins=2, both_strands=False)
    assert (encoder.length, encoder.width) == (48, 192)
    x = windows(3, 48)
    with torch.no_grad():
        whole = network(x.transpose(1, 2), return_only_embeddings=True)
    torch.testing.assert_close(encoder.embed(x), whole[:, [2, 3]].mean(dim=1))
    assert not torch.allclose(encoder.embed(x)[0], encoder.embed(x)[1])


def test_enformer_is_the_same_from_both_strands(enformer: tuple[Path, torch.nn.Module]):
    encoder = open_enformer(enformer[0], bins=2)  # an even number around the middle of an even number of bins
    sequence = codes(2, 48)
    ours = encoder.embed(torch.from_numpy(one_hot(sequence)))
    theirs = encoder.embed(torch.from_numpy(one_hot(reverse_complement(sequence))))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_enformer_fingerprints_hang_on_options_and_weights(enformer: tuple[Path, torch.nn.Module], tmp_path: Path):
    folder, network = enformer
    one = open_enformer(folder).fingerprint
    assert one == open_enformer(folder).fingerprint
    changed = {open_enformer(folder, bins=1).fingerprint, open_enformer(folder, both_strands=False).fingerprint}
    before = network.stem[0].bias.data.clone()
    network.stem[0].bias.data += 1
    other = write(tmp_path, network, {**SMALL, "model_type": "enformer"})
    network.stem[0].bias.data.copy_(before)
    assert one not in changed | {open_enformer(other).fingerprint}


def test_gamma_is_asserted_for_local_folders(tmp_path: Path):
    package = pytest.importorskip("enformer_pytorch")
    config = {**SMALL, "dim": 192, "heads": 1, "target_length": 896}
    network = randomised(package.Enformer(package.EnformerConfig(**config)))
    folder = write(tmp_path, network, {**config, "use_tf_gamma": False, "model_type": "enformer"})
    on = open_enformer(folder)
    assert on.length == 1536 * 8
    layers = [module for module in on._body.network.modules() if hasattr(module, "to_rel_k")]
    assert layers and all(module.use_tf_gamma is True for module in layers)
    off = open_enformer(folder, tf_gamma=False)
    assert on.fingerprint != off.fingerprint
    x = windows(1, on.length)
    assert not torch.allclose(on.embed(x), off.embed(x), atol=1e-6)
    with pytest.raises(ConfigError, match="1,536 bins"):
        open_enformer(folder, tf_gamma=True, length=1000 * 8)


def test_enformer_lengths_are_exact(enformer: tuple[Path, torch.nn.Module]):
    folder, _ = enformer
    assert open_enformer(folder, length=64).length == 64
    for length in (63, 40, 56):  # no multiple, too few bins, an odd number to crop
        with pytest.raises(ConfigError, match="does not fit"):
            open_enformer(folder, length=length)
    with pytest.raises(DataError, match="exactly that length"):
        open_enformer(folder).embed(windows(1, 64))


def test_folders_that_lack_something(enformer: tuple[Path, torch.nn.Module], tmp_path: Path):
    _, network = enformer
    config = {**SMALL, "model_type": "enformer"}
    with pytest.raises(ConfigError, match="Nothing is downloaded"):
        open_enformer(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"config\.json; weights"):
        open_enformer(tmp_path / "empty")
    with pytest.raises(DataError, match="tensors are missing"):
        open_enformer(write(tmp_path / "part", network, config, drop="stem.0"))
    with pytest.raises(DataError, match="of another shape"):
        open_enformer(write(tmp_path / "shape", network, {**config, "output_heads": {"human": 5}}))
    with pytest.raises(DataError, match="expected 'enformer'"):
        open_enformer(write(tmp_path / "kind", network, {**config, "model_type": "bert"}))
    damaged = write(tmp_path / "cut", network, config) / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    with pytest.raises(DataError, match="cannot be read"):
        open_enformer(damaged.parent)


def test_states_are_read_and_nothing_else_of_pickles(enformer: tuple[Path, torch.nn.Module], tmp_path: Path):
    folder, network = enformer
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    x = windows(2, 48)
    torch.testing.assert_close(open_enformer(tmp_path).embed(x), open_enformer(folder).embed(x))
    torch.save(network, tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match="nothing of it was run"):
        open_enformer(tmp_path)


def test_borzoi_is_what_the_package_computes(tmp_path: Path):
    package = pytest.importorskip("borzoi_pytorch")
    from borzoi_pytorch.config_borzoi import BorzoiConfig

    config = dict(dim=32, depth=1, heads=2, attn_dim_key=8, attn_dim_value=8, bins_to_return=8)
    torch.manual_seed(0)
    network = package.Borzoi(BorzoiConfig(**config)).eval()
    folder = write(tmp_path, network, {**config, "model_type": "borzoi"})
    encoder = open_borzoi(folder, bins=3, both_strands=False, length=512)
    assert (encoder.length, encoder.width) == (512, 1920)
    x = windows(2, 512)
    with torch.no_grad():
        whole = network.final_joined_convs(network.get_embs_after_crop(x))
    chosen = middle_bins(8, 512, 32, 3)
    torch.testing.assert_close(encoder.embed(x), whole[:, :, chosen].mean(dim=2), atol=1e-5, rtol=1e-4)
    both = open_borzoi(folder, bins=2, length=512)
    turned = x.flip(1, 2)
    torch.testing.assert_close(both.embed(x), both.embed(turned), atol=1e-4, rtol=1e-3)
    with pytest.raises(ConfigError, match="multiple of 128"):
        open_borzoi(folder, length=500)
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "borzoi", "flashed": True}))
    with pytest.raises(ConfigError, match="GPU alone"):
        open_borzoi(folder, length=512)
