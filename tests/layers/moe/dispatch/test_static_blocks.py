import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_multimodel.layers.moe.dispatch.static_blocks import blocked_layout


@settings(deadline=None, max_examples=10)
@given(groups=st.lists(st.integers(0, 4), max_size=40))
def test_blocks_hold_every_row_once_and_are_no_more_than_rows_or_twice_the_groups(groups):
    rows = len(groups)
    groups = np.array(groups, "int32")
    layout = blocked_layout(ops.convert_to_tensor(groups), 4)
    block = int(layout.block_size)
    row_of_slot, slot_of_row, group_of_block = (
        ops.convert_to_numpy(a)
        for a in (layout.row_of_slot, layout.slot_of_row, layout.group_of_block)
    )
    assert len(group_of_block) <= min(rows, 8) and len(row_of_slot) == len(group_of_block) * block
    for row in range(rows):
        slot = slot_of_row[row]
        if groups[row] == 4:
            assert slot == len(row_of_slot)
        else:
            assert row_of_slot[slot] == row and group_of_block[slot // block] == groups[row]
    assert np.sum(row_of_slot < rows) == np.sum(groups < 4)
