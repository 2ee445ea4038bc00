"""Stable Audio Open (Evans et al. 2024), as diffusers has it, as a denoiser.

    pipe = StableAudioPipeline.from_pretrained("stabilityai/stable-audio-open-1.0")
    denoiser = from_stable_audio(pipe)
    encoder = T5Text(pipe.text_encoder, pipe.tokenizer)
    cond = condition(encoder, ["slow jazz trio"], [None], total=[30.0])

docs/stable_audio_open.md goes on from here.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from presto_models.adapters import DropBlocks, from_v
from presto_models.conditioning import Condition


class StableAudioNetwork(nn.Module):
    """v(z, t, cond) by a StableAudioDiTModel and the projections of its conditions.

    Hears text, start and total of the condition; the tempo belongs into the words. A prompt whose
    mask is empty throughout is the null condition of diffusers' pipeline: no prompt tokens at all,
    but the timing that is prepended to the music.
    """

    def __init__(self, transformer: nn.Module, projection: nn.Module, max_tokens: int):
        super().__init__()
        self.transformer, self.projection, self.max_tokens = transformer, projection, max_tokens

    def forward(
        self, z: Float[Tensor, "b c t"], time: Float[Tensor, " b"], cond: Condition
    ) -> Float[Tensor, "b c t"]:
        """Raises ValueError for a condition without a total or of more tokens than were trained."""
        from diffusers.models.embeddings import get_1d_rotary_pos_embed

        tokens, timing = self._conditions(cond)
        width = self.transformer.config.attention_head_dim // 2
        places = torch.arange(z.shape[-1] + timing.shape[1], device=z.device)  # timing stands first
        rotary = get_1d_rotary_pos_embed(width, places, use_real=True, repeat_interleave_real=False)
        return self.transformer(
            z.to(self.transformer.dtype),
            time,
            encoder_hidden_states=tokens,
            global_hidden_states=timing,
            rotary_embedding=rotary,
            return_dict=False,
        )[0]

    def _conditions(self, cond: Condition) -> tuple[Tensor, Tensor]:
        """Tokens of the prompt and of its timing to attend to; and the timing to prepend."""
        if cond.total is None:
            raise ValueError("Stable Audio is told how long the music lasts: condition(…, total=…)")
        padding = self.max_tokens - cond.text.shape[1]
        if padding < 0:
            raise ValueError(
                f"{cond.text.shape[1]} prompt tokens; Stable Audio reads {self.max_tokens} at most"
            )
        seconds = self.projection(
            start_seconds=torch.zeros_like(cond.total) if cond.start is None else cond.start,
            end_seconds=cond.total,
        )
        start, end = seconds.seconds_start_hidden_states, seconds.seconds_end_hidden_states
        text = cond.text.to(self.transformer.dtype)
        text = self.projection(text_hidden_states=text).text_hidden_states * cond.mask[..., None]
        # It was trained to attend to zeros where a prompt is shorter, and to nothing but zeros.
        tokens = torch.cat([F.pad(text, (0, 0, 0, padding)), start, end], dim=1)
        tokens = tokens * cond.mask.any(1).view(-1, 1, 1)
        return tokens, torch.cat([start, end], dim=2)


def from_stable_audio(pipe: Any, *, scale: float = 1.0) -> DropBlocks:
    """The denoiser of a diffusers StableAudioPipeline, whose modules it shares.

    `scale` as in `from_v`: 1 works on the pipeline's own latents (deviation 1), 2 on their halves,
    whose deviation is this project's; `.net.sigma_data` says which. Raises ValueError for a
    scheduler that reads the transformer as anything but a v-prediction of latents of deviation 1.
    """
    config = pipe.scheduler.config
    read = config.prediction_type, config.sigma_data
    if read != ("v_prediction", 1.0):
        raise ValueError(f"the scheduler reads {read[0]} of deviation {read[1]}, not v of 1.0")
    limit = pipe.tokenizer.model_max_length
    network = StableAudioNetwork(pipe.transformer, pipe.projection_model, limit)
    denoiser = from_v(network, pipe.scheduler.precondition_noise, scale=scale)
    denoiser.sigma_data = 1.0 / scale
    return DropBlocks(denoiser, "inner.transformer.transformer_blocks", channels="last")
