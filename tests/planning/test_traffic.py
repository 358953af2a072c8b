"""Bytes in main memory of hand-written programs, worked out by hand."""

from vit_jax.planning import traffic

PROGRAM = """HloModule step

%slices (stack: f32[10,8], i: s32[]) -> f32[1,8] {
  %stack = f32[10,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = f32[1,8]{1,0} dynamic-slice(%stack, %i, %zero), dynamic_slice_sizes={1,8}
}

%updates (stack: f32[10,8], new: f32[1,8], i: s32[]) -> (f32[10,8], f32[4]) {
  %stack.1 = f32[10,8]{1,0} parameter(0)
  %new = f32[1,8]{1,0} parameter(1)
  %i.1 = s32[] parameter(2)
  %update = f32[10,8]{1,0} dynamic-update-slice(%stack.1, %new, %i.1, %i.1)
  %same = f32[10,8]{1,0} bitcast(%update)
  %four = f32[4]{0} broadcast(%i.1)
  ROOT %both = (f32[10,8]{1,0}, f32[4]{0}) tuple(%same, %four)
}

%body (p: (s32[], f32[10,8])) -> (s32[], f32[10,8]) {
  %p = (s32[], f32[10,8]{1,0}) parameter(0)
  %i.2 = s32[]{:S(2)} get-tuple-element(%p), index=0
  %stack.2 = f32[10,8]{1,0} get-tuple-element(%p), index=1
  %one = f32[1,8]{1,0:S(1)} fusion(%stack.2, %i.2), kind=kLoop, calls=%slices
  %next = (f32[10,8]{1,0}, f32[4]{0}) fusion(%stack.2, %one, %i.2), kind=kLoop, calls=%updates
  ROOT %t = (s32[], f32[10,8]{1,0}) tuple(%i.2, %stack.2)
}

ENTRY %main (x: f32[10,8]) -> f32[10,8] {
  %x = f32[10,8]{1,0:T(8,128)} parameter(0)
  %fetch = (f32[10,8]{1,0:T(8,128)S(1)}, f32[10,8]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
  %near = f32[10,8]{1,0:T(8,128)S(1)} copy-done(%fetch)
  %sum = f32[10,8]{1,0:T(8,128)} add(%near, %x)
  %aside = f32[1000]{0} custom-call(), custom_call_target="AllocateBuffer"
  %w = (s32[], f32[10,8]{1,0}) while(%t0), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"10"}}
  ROOT %r = f32[10,8]{1,0} get-tuple-element(%w), index=1
}
"""


def test_a_program_by_hand():
    # The fetch reads 320 bytes and leaves them on the chip; the sum reads the other 320 and writes 320.
    entry = 320 + 320 + 320
    # Each round reads a slice of 32 bytes; it writes it back in place, and four numbers.
    rounds = 10 * (32 + 32 + 16)
    assert traffic.memory_bytes(PROGRAM) == entry + rounds


def test_prefetched_slices_and_whole_operands():
    lines = """
  %x = bf16[24,8]{1,0} parameter(0)
  %s = ((bf16[24,8]{1,0}), bf16[6,8]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:6], [0:8]}
  %d = bf16[6,8]{1,0:S(1)} slice-done(%s)
  %p = bf16[6]{0} reduce(%d, %x), dimensions={1}, to_apply=%sum
"""
    # 6 x 8 bfloat16 are read, then all of 24 x 8, and 6 are written.
    assert traffic.memory_bytes(f"ENTRY %main (x: bf16[24,8]) -> bf16[6] {{{lines}}}\n") == 96 + 384 + 12


def test_a_fused_operand_that_is_used_whole_too():
    text = PROGRAM.replace("ROOT %slice", "%sum = f32[10,8]{1,0} add(%stack, %stack)\n  ROOT %slice")
    assert traffic.memory_bytes(text) == traffic.memory_bytes(PROGRAM) + 10 * (320 - 32)


def test_a_gather_in_the_background_is_read_and_written_once():
    lines = """
  %x = f32[2,8]{1,0} parameter(0)
  %s = (f32[2,8]{1,0}, f32[8,8]{1,0}) all-gather-start(%x), replica_groups=[1,4]<=[4], dimensions={0}
  ROOT %d = f32[8,8]{1,0} all-gather-done(%s)
"""
    assert traffic.memory_bytes(f"ENTRY %main (x: f32[2,8]) -> f32[8,8] {{{lines}}}\n") == 64 + 256
