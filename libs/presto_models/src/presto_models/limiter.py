"""A look-ahead limiter: what guidance made too loud is turned down where it is too loud.

Dividing a whole clip by its highest peak would let one drum stroke quieten all of its music.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool1d, interpolate, max_pool1d, pad

BLOCK_SECONDS, REACH = 0.005, 4  # the gain of a block, and of so many on either side of it


def limit(audio: Float[Tensor, "b ch s"], sample_rate: int) -> Float[Tensor, "b ch s"]:
    """Audio within [-1, 1], by a gain that all channels share; farther than 55 ms from what is too
    loud, samples are left as they are.

    The least gain of 11 blocks of 5 ms, averaged over 9 of them and drawn through by straight
    lines: as low as every block needs, and steady under a held tone. Sizes are our defaults.
    """
    block, samples = max(1, round(BLOCK_SECONDS * sample_rate)), audio.shape[-1]
    peaks = max_pool1d(audio.abs().amax(1, keepdim=True), block, ceil_mode=True)
    gain = 1 / peaks.clamp(min=1)
    # One block further than the average reaches: lines lead to the next block's average.
    least = -max_pool1d(-gain, 2 * REACH + 3, stride=1, padding=REACH + 1)
    smooth = avg_pool1d(pad(least, (REACH, REACH), mode="replicate"), 2 * REACH + 1, stride=1)
    drawn = interpolate(smooth, scale_factor=block, mode="linear")[..., :samples]
    return (audio * drawn).clamp(-1, 1)  # of rounding only
