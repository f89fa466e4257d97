"""Every mistake is one line that says what, where and what was expected; nobody sees a traceback unasked."""

import errno

import pytest
import typer

from crysjax.cli.app import explain, main
from crysjax.terminal import Stopped
from crysjax.training.loop import NonFiniteLoss

PLANS = {
    "a typing mistake": ({"guidence": "none"}, r"plan\.yaml: guidence: unknown key; .*did you mean guidance\?"),
    "an impossible window": ({"target.band_gap_ev": [2, 1]}, r"target\.band_gap_ev: \[2, 1\]; expected a window"),
    "no element": ({"elements": ["O", "Xx"]}, r"elements: 'Xx'; expected a chemical element .*did you mean Xe"),
    "an element unheard of": ({"elements": ["O", "Fe"]}, r"elements: Fe; the generator .*model\.npz does not know it"),
    "half a name": ({"target.density": [1, 2]}, r"target\.density: the heads .* \(did you mean density_g_cm3\?\)"),
    "a property unheard of": ({"target.mass": "minimise"}, r"target\.mass: the heads do not predict it; .*band_gap_ev"),
    "a wrong type": ({"rounds": "three"}, r"rounds: 'three'; expected a whole number"),
    "a size unheard of": ({"min_atoms": 8, "max_atoms": 9}, r"max_atoms: 9; the generator knows 2 to 4 atoms"),
    "no such model": ({"heads": "my_heads"}, r"heads: 'my_heads' is neither a file nor a model; expected a path"),
    "no such data": ({"novel_to": "gone.npz"}, r"novel_to: gone\.npz: no such file or folder"),
}


@pytest.mark.parametrize("mistake", PLANS)
def test_a_mistake_in_a_plan(one_line, crysjax, world, write, tmp_path, mistake):
    changed, message = PLANS[mistake]
    answer = crysjax("design", write(tmp_path / "plan.yaml", world.plan(**changed)), "--out", tmp_path / "out")
    one_line(answer, message)
    assert not (tmp_path / "out").exists()


TEXTS = {
    "broken syntax": ("elements: [O, Ti\nrounds: 2\n", r"plan\.yaml: line 2, column 7: expected ',' or '\]'"),
    "a tab": ("rounds: 2\n\tseed: 1\n", r"plan\.yaml: line 2, column 1: "),
    "a key twice": ("rounds: 2\nseed: 1\nrounds: 3\n", r"plan\.yaml: line 3, column 1: key 'rounds' is given twice"),
    "nothing": ("", r"plan\.yaml: expected `key: value` lines, found NoneType"),
    "no text": (b"\xff\xfe\x00", r"plan\.yaml: not a text of YAML"),
    "no target": ("elements: [O]\n", r"plan\.yaml: target: missing"),
}


@pytest.mark.parametrize("mistake", TEXTS)
def test_a_mistake_in_yaml(one_line, crysjax, tmp_path, mistake):
    text, message = TEXTS[mistake]
    (tmp_path / "plan.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    one_line(crysjax("design", tmp_path / "plan.yaml", "--out", tmp_path / "out"), message)


CONFIGS = {
    "a key": ("generator", {"stepz": 3}, r"stepz: unknown key; .*did you mean steps\?"),
    "a section": ("generator", {"netwrok.width": 3}, r"netwrok\.width: unknown section.*did you mean network\?"),
    "a key of a section": ("generator", {"network.widht": 3}, r"network\.widht: unknown key; .*did you mean width\?"),
    "a type": ("generator", {"network.width": "a"}, r"network\.width: 'a'; expected a whole number"),
    "a name": ("generator", {"network": "dens"}, r"network: 'dens'; .*did you mean dense\?"),
    "nothing there": ("generator", {"frac": None}, r"frac: missing; expected one of flow, diffusion"),
    "no network": ("potential", {"network": None}, r"network: missing; expected one of nequip, cluster"),
    "another's section": ("generator", {"heads.hidden": 3}, r"heads\.hidden: a generator of this family has no such"),
    "a dtype": ("generator", {"network.dtype": "float33"}, r"network: data type 'float33' not understood"),
    "no network at all": ("generator", {"network.width": -3}, r"no model can be made of these settings: "),
    "one member": ("heads", {"ensemble.members": 1}, r": ensemble: members is 1; a spread needs at least 2"),
    "a property": ("heads", {"properties": ["mass"]}, r"property 'mass': no crystal has a value; .*band_gap_ev"),
    "no property": ("heads", {"properties": []}, r"properties: \[\]; expected at least one"),
    "an element": (
        "potential",
        {"network.numbers": [8, 12]},
        r"network\.numbers: \[8, 12\]; Ca of the data set is not",
    ),
    "a potential's key": ("potential", {"network.channel": 3}, r"network\.channel: unknown key; .*mean channels\?"),
    "a split": ("generator", {"train_split": "trian"}, r"no crystal is in 'trian'; the data set has .*'train'"),
    "too many tiles": ("generator", {"tiles": 99}, r"tiles: 99 packs per step, but the data set fills only 3"),
    "no steps": ("generator", {"steps": 0}, r"steps: 0; expected a whole number of at least 1"),
    "a seed": ("generator", {"seed": -1}, r"seed: -1; expected a whole number from 0"),
    "a predictor that sees the axes": ("heads", {"network": "dense"}, r"network: dense sees how the axes are named"),
    "one that sees the cell": (
        "heads",
        {"network": "equivariant", "network.sees_cell": True},
        r"equivariant with sees_cell sees how",
    ),
    "a kind": ("generator", {"kind": "gan"}, r"kind: 'gan'; expected one of generator, heads, potential"),
    "no data": ("generator", {"data": "gone.npz"}, r"crysjax: gone\.npz: No such file or directory"),
}


@pytest.mark.parametrize("mistake", CONFIGS)
def test_a_mistake_in_a_training_config(one_line, train, world, write, tmp_path, mistake):
    kind, changed, message = CONFIGS[mistake]
    settings = {k: v for k, v in (world.config(kind) | changed).items() if v is not None}
    one_line(train(write(tmp_path / "train.yaml", settings), "--out", tmp_path / "out"), message)
    assert not (tmp_path / "out" / "model.npz").exists()


COMMANDS = {
    "design plan.yaml --uot x": r"No such option: --uot \(Possible options: --out\)",
    "design plan.yaml": r"Missing option '--out'",
    "desing": r"No such command 'desing'\. Did you mean 'design'\?",
    "design gone.yaml --out out": r"gone\.yaml: No such file or directory",
    "design gone.yaml --out out --seed x": r"--seed",
    "train gone.yaml --out out": r"gone\.yaml: No such file or directory",
    "sample gone --out s.npz": r"'gone' is neither a file nor a model; expected a path",
    "evaluate": r"nothing to do; give SAMPLES",
    "evaluate gone.npz": r"gone\.npz: no such file or folder",
    "data prepare gone.cif --out d.npz": r"gone\.cif: no such file or folder",
    "data info gone.npz": r"gone\.npz: no such file or folder",
    "data audit gone.npz": r"gone\.npz: No such file or directory",
    "models pull nequix": r"'nequix' is not published; expected one of nequix-mp-1.*did you mean nequix-mp-1",
    "models card gone": r"'gone' is neither a file nor a model",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistake_on_the_command_line(one_line, crysjax, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one_line(crysjax(*command.split()), COMMANDS[command])
    assert list(tmp_path.iterdir()) == []


SAMPLES = {
    "--elements Xx": r"--elements: 'Xx'; expected a chemical element",
    "--elements O,Fe": r"--elements: Fe; the model was not trained on it",
    "--max-atoms 1": r"--max-atoms: 1; the model knows sizes from 2",
    "--property mass=3": r"--property mass=3: expected one of formation_energy_ev_per_atom, band_gap_ev",
    "--property band_gap_ev=wide": r"--property band_gap_ev=wide: expected NAME=NUMBER",
}


@pytest.mark.parametrize("options", SAMPLES)
def test_a_mistake_in_what_is_asked_of_a_generator(one_line, crysjax, world, options, tmp_path):
    one_line(crysjax("sample", world.generator, "--out", tmp_path / "s.npz", *options.split()), SAMPLES[options])


def test_a_broken_override(one_line, train, world, write, tmp_path):
    config = write(tmp_path / "train.yaml", world.config("generator"))
    one_line(train(config, "--out", tmp_path, "--set", "steps"), r"--set steps: expected KEY=VALUE")
    one_line(train(config, "--out", tmp_path, "--set", "steps=[1"), r"--set steps=\[1: expected KEY=VALUE")


def test_the_folder_for_results_is_a_file(one_line, crysjax, world, write, tmp_path):
    (tmp_path / "out").write_text("mine")
    answer = crysjax("design", write(tmp_path / "plan.yaml", world.plan()), "--out", tmp_path / "out")
    one_line(answer, r"out: is a file; expected a folder, or a name that is free")
    assert (tmp_path / "out").read_text() == "mine"


def caused(error: BaseException) -> typer.Abort:
    """What typer raises in place of an error."""
    abort = typer.Abort()
    abort.__cause__ = error
    return abort


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (ValueError("a: 1;\n expected 2"), "a: 1; expected 2", 2),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.cif"), "a.cif: No such file", 2),
        (PermissionError(errno.EACCES, "Permission denied", "/out"), "/out: Permission denied", 2),
        (OSError(errno.ENOSPC, "No space left on device", "out"), "out: No space left on device", 1),
        (OSError(errno.EFBIG, "File too large", "out"), "out: File too large", 1),
        (Stopped("2 rounds are kept"), "stopped by Ctrl-C; 2 rounds are kept", 130),
        (KeyboardInterrupt(), "stopped by Ctrl-C", 130),
        (caused(KeyboardInterrupt()), "stopped by Ctrl-C", 130),
        (typer.Abort(), "stopped by Ctrl-C", 130),
        (caused(EOFError()), "internal error, EOFError: ; --debug shows where", 1),
        (MemoryError("no 9 GiB"), "not enough memory: no 9 GiB", 1),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "not enough memory: RESOURCE_EXHAUSTED: Out of memory", 1),
        (NonFiniteLoss("step 3: loss nan; the batch is saved"), "step 3: loss nan; the batch is saved", 1),
        (KeyError("frac"), "internal error, KeyError: 'frac'; --debug shows where", 1),
        (SystemExit(3), "", 3),
    ],
)
def test_what_an_error_becomes(error, message, code):
    assert explain(error) == (message, code)


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.yaml"):
        main(["--debug", "design", str(tmp_path / "gone.yaml"), "--out", str(tmp_path)])
