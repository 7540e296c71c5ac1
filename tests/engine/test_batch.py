import pytest

from samovar.engine.batch import Slice, build_batch
from samovar.engine.page_pool import PagePool
from samovar.engine.prefix_cache import PrefixCache
from samovar.engine.runner import Runner
from samovar.kernels import PAGE_TOKENS
from samovar.kernels.reference import ReferenceOps
from tests.engine.fakes import D_HEAD, N_KV_HEADS, N_LAYERS, VOCAB, TinyModel, request, tiny_engine


def sequence_with_pages(pages, n_prompt=40):
    sequence = tiny_engine().submit(request([1] * n_prompt))
    sequence.pages = pages
    return sequence


def test_a_batch_lays_slices_end_to_end_at_their_positions_and_slots():
    first, second = sequence_with_pages([3, 1]), sequence_with_pages([0])
    batch = build_batch([Slice(first, PAGE_TOKENS - 1, (7, 8, 9), 2), Slice(second, 0, (4,), 0), Slice(second, 1, (5,), 1)])
    assert batch.ids_T.tolist() == [7, 8, 9, 4, 5]
    assert batch.positions_T.tolist() == [31, 32, 33, 0, 1]
    assert batch.slots_T.tolist() == [3 * 32 + 31, 32, 33, 0, 1]
    assert batch.spans.row_starts.tolist() == [0, 3, 4, 5]
    assert batch.output_rows.tolist() == [1, 2, 4]


@pytest.mark.parametrize("n_logits", [0, 1, 3])
def test_the_runner_gives_logits_after_the_last_tokens_of_each_slice_drafts_included(n_logits):
    prompt = [5, 17, 3, 88]
    pool = PagePool("f32", n_pages=2, n_layers=N_LAYERS, n_kv_heads=N_KV_HEADS, d_head=D_HEAD)
    sequence = tiny_engine().submit(request(prompt))
    PrefixCache(pool).grow(sequence.pages, 6)
    drafts = (60, 61)
    logits_SV = Runner(TinyModel(), ReferenceOps(), pool).run([Slice(sequence, 0, (*prompt, *drafts), n_logits)])
    whole_TV = tiny_engine().logits((*prompt, *drafts))
    assert logits_SV.shape == (n_logits, VOCAB)
    assert (logits_SV == whole_TV[6 - n_logits :]).all()
    assert sequence.token_ids == prompt
    assert sequence.n_computed == 0  # only the engine knows which of them were accepted
