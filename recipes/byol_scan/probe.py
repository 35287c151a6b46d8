"""A linear probe of the speaker: what the encoder of a self-supervised run has learned, by checkpoint."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from asr_emapl.audio.features import FeatureExtractor
from asr_emapl.checkpoints.files import checkpoint_paths, fitting, load
from asr_emapl.config import config_from_dict
from asr_emapl.data.loader import collate
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from asr_emapl.models.contract import build_model
from asr_emapl.models.inputs import build_features
from asr_emapl.models.target import USERS_OWN
from asr_emapl.scaling import AudioClock
from asr_emapl.self_supervised.build import self_supervised_model
from asr_emapl.self_supervised.networks import SelfSupervisedModel
from asr_emapl.storage import write
from asr_emapl.terminal import run_script

# Utterances of each speaker, half of them for training the probe; and the audio of each that is embedded.
UTTERANCES = 20
SECONDS = 2.0
# Regularisation, relative to the mean square of the embeddings.
_RIDGE = 1e-2
_BATCH = 20


def probed(manifests: Sequence[str]) -> list[list[Utterance]]:
    """Up to `UTTERANCES` utterances of each speaker with that many, from their beginning.

    Raises:
        UserError: there are fewer than two such speakers.
    """
    by_speaker: dict[str, list[Utterance]] = {}
    for path in manifests:
        for utterance in read_manifest(path):
            if utterance.speaker is not None and utterance.duration >= SECONDS:
                by_speaker.setdefault(utterance.speaker, []).append(utterance)
    found = [of[:UTTERANCES] for _, of in sorted(by_speaker.items()) if len(of) >= UTTERANCES]
    if len(found) < 2:
        raise UserError(
            f"the probe needs two speakers with {UTTERANCES} utterances of at least {SECONDS:g} s"
        )
    return found


@torch.no_grad()
def embed(model: SelfSupervisedModel, features: FeatureExtractor, utterances: Sequence[Utterance]) -> Tensor:
    """The mean over frames of the last layer's output, for each utterance, [utterances, D]."""
    found = []
    for start in range(0, len(utterances), _BATCH):
        micro = collate(utterances[start : start + _BATCH])
        samples = round(SECONDS * 16_000)
        waveforms = micro.waveforms_BN[:, :samples]
        layers, frames = model.layers(*features(waveforms, micro.samples_B.clamp(max=samples)))
        valid = (torch.arange(layers[-1].shape[1]) < frames[:, None])[..., None]
        found.append((layers[-1] * valid).sum(1) / frames[:, None])
    return torch.cat(found).double()


def accuracy(embeddings: Tensor, speakers: Tensor) -> float:
    """Share of correct speakers of a ridge classifier, trained and tested on every second utterance.

    Args:
        embeddings: [utterances, D] float64.
        speakers: [utterances] long.
    """
    train, test = slice(0, None, 2), slice(1, None, 2)
    mean, std = embeddings[train].mean(0), embeddings[train].std(0).clamp(min=1e-9)
    x = F.pad((embeddings - mean) / std, (0, 1), value=1.0)
    wanted = F.one_hot(speakers).double()
    product = x[train].T @ x[train]
    ridge = _RIDGE * product.diagonal().mean() * torch.eye(len(product), dtype=torch.float64)
    weights = torch.linalg.solve(product + ridge, x[train].T @ wanted[train])
    return float(((x[test] @ weights).argmax(1) == speakers[test]).double().mean())


def probe(run: Path) -> list[tuple[float, float]]:
    """(hours, accuracy in percent) of the teacher at each checkpoint of a run."""
    curve, chosen = [], None
    for path in checkpoint_paths(run / "checkpoints"):
        state = load(path)
        config = config_from_dict(state["config"], f"the config in checkpoint {path}")
        if chosen is None:
            chosen = probed(config.data.unlabelled)
            speakers = torch.tensor([i for i, of in enumerate(chosen) for _ in of])
        features = build_features(config.features, config.model, USERS_OWN)
        encoder = build_model(config.model, vocabulary_size=1, input_size=features.size, trust=USERS_OWN)
        model = self_supervised_model(config, encoder).eval()
        with fitting(path, config.model.target):
            model.load_state_dict(state["teacher"]["module"])
        clock = AudioClock()
        clock.load_state_dict(state["clock"])
        embeddings = embed(model, features, [u for of in chosen for u in of])
        curve.append((clock.hours, 100.0 * accuracy(embeddings, speakers)))
    return curve


def main() -> None:
    """Probe a run, and write RUN/probe.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    torch.set_num_threads(1)
    write(run / "probe.json", json.dumps(probe(run)) + "\n")


if __name__ == "__main__":
    run_script(main)
