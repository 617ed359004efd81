"""Faults of families A, B, D, E, F, G and H in Triton, run under its interpreter."""

import torch

from implementations.faulty._base_triton import Chunks, Tokens
from implementations.faulty._registry import fault


@fault("A2", "exp before the causal mask.", trigger="decay of more than 88 inside a chunk", source="fla 39fc5878")
class exp_before_the_mask(Chunks):
    fault = "exp before the mask"


@fault(
    "A5b",
    "Rows behind the end read a running sum of 0.",
    trigger="T mod 16 != 0 and decay of more than 88 in the tail",
    source="fla #794",
)
class rows_behind_the_end(Chunks):
    fault = "rows behind the end read gate 0"


@fault(
    "B3b",
    "The exponent's anchor is the middle of the valid rows, a future row.",
    trigger="a later gate is changed, decay within the range of the factors",
    source="fla #1240, #1244",
)
class anchor_in_the_future(Chunks):
    fault = "anchor on a later row"


@fault(
    "B7b",
    "The decay of a half-precision gate is rounded to half precision.",
    trigger="g in half precision and a state to decay",
    source="fla #720",
)
class decay_in_half_precision(Tokens):
    fault = "decay in half precision"


@fault(
    "D1b",
    "The end-of-chunk gate is that of the last, empty row.",
    trigger="T mod 16 != 0 and T > 16 and a state to decay",
    source="fla #673, cuLA #38",
)
class end_gate_of_the_last_row(Chunks):
    fault = "end gate of the last row"


@fault(
    "D2b",
    "Forward substitution runs over whole sub-chunks of eight rows only.",
    trigger="T mod 8 > 1 and correlated keys",
    source="fla 370fe304",
)
class substitution_by_whole_sub_chunks(Chunks):
    fault = "substitution by whole sub-chunks"


@fault(
    "D3",
    "The gate is loaded without a mask where K is padded to a power of two.",
    trigger="K not a power of two, and what lies behind the gate is not finite",
    source="fla #1135, b67113b4",
)
class gate_lanes_unmasked(Tokens):
    fault = "gate lanes unmasked"


@fault(
    "D4",
    "The key is loaded without a mask where K is padded: lanes of the next head erase.",
    trigger="K not a power of two",
    source="fla #950, 81727354",
)
class key_lanes_unmasked(Tokens):
    fault = "key lanes unmasked"


@fault(
    "D11b",
    "The first row of every chunk but the first is not stored.",
    trigger="T > 16",
    source="fla 80e69a56",
)
class tail_row_not_stored(Chunks):
    fault = "tail row not stored"


@fault(
    "E3b",
    "Whole tiles are stored over the next sequence, programs running in reverse order.",
    trigger="packed and a length that is no multiple of 16, followed by another sequence",
    source="fla e4a870a3",
)
class whole_tiles_stored(Chunks):
    fault = "whole tiles stored"


@fault(
    "F3b",
    "The final state is stored by the last token, of which an empty sequence has none.",
    trigger="an empty sequence and final state asked for",
    source="FlashKDA #24, part 2",
)
class state_stored_by_the_last_token(Tokens):
    fault = "state stored by the last token"


@fault(
    "G1b",
    "The gate's offset is a narrow product that is widened afterwards (9 bits in place of 31).",
    trigger="T HV K beyond the offset's range (here 512)",
    source="fla c541794f, #692",
)
class narrow_offsets(Tokens):
    fault = "narrow offsets"


@fault("H1b", "The gate is that of the key head.", trigger="HV > H", source="fla a1e135ba")
class gate_of_the_key_head(Tokens):
    fault = "gate of the key head"


@fault("H12b", "Interleaved head mapping.", trigger="HV > H > 1", source="llama.cpp #25315: the other convention")
class interleaved_heads(Tokens):
    fault = "interleaved heads"


@fault(
    "D14b",
    "The number of column blocks is a truncated quotient.",
    trigger="V > 16 and V mod 16 != 0",
    source="intel/llm-scaler #464",
)
class columns_truncated(Tokens):
    def columns(self, V):
        return (16, V // 16) if V > 16 else super().columns(V)


@fault(
    "H10b",
    "q and k are not made contiguous.",
    trigger="strided inputs",
    source="xLLM #2311",
)
class strides_assumed(Tokens):
    def laid_out(self, x):
        return x if x.ndim == 4 and x.dtype == torch.float32 else x.contiguous()


@fault(
    "D14c",
    "Blocks of 64 value columns are counted by a truncated quotient where K is wide.",
    trigger="K > 64 and V > 64 and V mod 64 != 0",
    source="second blind trial of the laws; D14b in a table of launch configurations",
)
class wide_column_blocks_truncated(Tokens):
    def __call__(self, q, *tensors, **keywords):
        self.wide = q.shape[-1] > 64
        return super().__call__(q, *tensors, **keywords)

    def columns(self, V):
        return (64, V // 64) if self.wide and V > 64 else super().columns(V)
