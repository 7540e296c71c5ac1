"""Control tokens, their flags, what ends an answer, and what is put around a text."""

from typing import Final

from samovar.doctor.check_tokenizer import OpenTokenizer
from samovar.doctor.finding import Finding, failed, passed, unknown
from samovar.doctor.raw_vocabulary import RawVocabulary, Role
from samovar.doctor.releases import STOP_IDS, Release
from samovar.doctor.subject import Subject
from samovar.doctor.token_tables import TOKEN_TABLES, TokenTable
from samovar.text.control_tokens import looks_like_markup
from samovar.text.gguf_vocabulary import END_NAMES

SECTION: Final = "tokens"
_END_OF_TEXT: Final = 151_643
_AGAIN: Final = "convert the model again with the release's own tokenizer files"
_CONVERTED: Final = (
    "converters to GGUF flag all that looks like <|markup|>, so a folder that is made from GGUF has it special too: programs "
    "that leave out special tokens do not show these in answers; with the release's own tokenizer files they do"
)


def check_tokens(subject: Subject, opened: OpenTokenizer, release: Release) -> list[Finding]:
    """The lines on control tokens, ends of answers, and what is added to texts."""
    if opened.raw is None:
        return [unknown(SECTION, "control tokens", "there is no tokenizer")]
    table = TOKEN_TABLES[release.tokenizer]
    return [
        _texts(opened.raw, table),
        _flags(subject, opened.raw, table),
        _stops(subject, opened.raw, table, release),
        _surroundings(opened, release),
    ]


def _name(raw: RawVocabulary, token_id: int) -> str:
    return f"{token_id} {raw.pieces.get(token_id, 'absent')}"


def _texts(raw: RawVocabulary, table: TokenTable) -> Finding:
    """Each control token of the release under its id, and none beside."""
    what = "control tokens"
    wrong = [f"{i}: {raw.pieces.get(i)!r}, expected {text!r}" for i, text in table.control.items() if raw.pieces.get(i) != text]
    others = [i for i, role in raw.roles.items() if role in (Role.SPECIAL, Role.TEXTUAL) and i not in table.control]
    wrong += [f"{i}: {raw.pieces.get(i)!r}, expected none" for i in others]
    if not wrong:
        return passed(SECTION, what, f"all {len(table.control)} under their ids")
    advice = f"turns, tools and thoughts would not be told apart: {_AGAIN}"
    shown = [*wrong[:4], *([f"and {len(wrong) - 4} more"] if len(wrong) > 4 else [])]
    return failed(SECTION, what, f"{len(wrong)} differ", f"the release's {len(table.control)}", advice, shown)


def _flags(subject: Subject, raw: RawVocabulary, table: TokenTable) -> Finding:
    """What is markup is special; what answers are made of (<think>, <tool_call>) is matched as a whole, and shown."""
    what, marked = "special flags", _marked_by_look(raw, table)
    wrong = []
    for i, text in table.control.items():
        expected = Role.SPECIAL if i in table.special else Role.TEXTUAL
        role = raw.role(i)
        is_there = raw.pieces.get(i) == text  # else the line on control tokens speaks of it
        if is_there and role is not expected and i not in marked:
            wrong.append(f"{_name(raw, i)}: {role.value}, expected {expected.value}")
    wrong += _other_flags(subject, table, marked)
    if not any(raw.pieces.get(i) == text for i, text in table.control.items()):
        return unknown(SECTION, what, "none of the tokens is there")
    if not wrong and marked and not subject.is_gguf:
        texts = ", ".join(table.control[i] for i in sorted(marked))
        found = f"as published, but for {len(marked)} that are special as in GGUF files: {texts}"
        return passed(SECTION, what, found, advice=_CONVERTED)
    if not wrong:
        return passed(SECTION, what, "as published")
    advice = "tags that are special vanish from answers, and ordinary ones are cut into pieces: " + _AGAIN
    shown = [*wrong[:4], *([f"and {len(wrong) - 4} more"] if len(wrong) > 4 else [])]
    return failed(SECTION, what, f"{len(wrong)} tokens are flagged in another way", "the release's flags", advice, shown)


def _marked_by_look(raw: RawVocabulary, table: TokenTable) -> frozenset[int]:
    """The ids that are special for their look alone: any in a GGUF file; in a folder all or none, as in one made from GGUF."""
    alike = frozenset(i for i, text in table.control.items() if i not in table.special and looks_like_markup(text))
    marked = frozenset(i for i in alike if raw.role(i) is Role.SPECIAL)
    return marked if raw.marks_by_name or marked == alike else frozenset()


def _other_flags(subject: Subject, table: TokenTable, marked: frozenset[int]) -> list[str]:
    """What tokenizer_config.json, which some libraries go by, flags in another way; those of `marked` may be special."""
    listed = subject.tokenizer_config.get("added_tokens_decoder")
    where = "in tokenizer_config.json"
    return [
        f"{key} {text} {where}: special is {found}, expected {int(key) in table.special}"
        for key, entry in (listed.items() if isinstance(listed, dict) else ())
        if isinstance(entry, dict)
        and (text := table.control.get(int(key) if key.isdecimal() and len(key) < 10 else -1))
        and (found := entry.get("special")) is not (int(key) in table.special)
        and not (found is True and int(key) in marked)
    ]


def _stops(subject: Subject, raw: RawVocabulary, table: TokenTable, release: Release) -> Finding:
    found, where = _stated_stops(subject)
    expected = release.stop_ids
    wanted = ", ".join(f"{i} {table.control[i]}" for i in expected)
    shown = ", ".join(_name(raw, i) for i in found) or "none stated"
    # GGUF names one id; engines find the others by their names, if they are special.
    is_right = found == expected[:1] and all(raw.role(i) is Role.SPECIAL for i in expected[1:])
    others = [i for i in found if i not in expected]
    if not subject.is_gguf:  # one that was made from GGUF has all ids whose names are known to end texts
        may_be_more = STOP_IDS not in release.unverified and all(raw.pieces.get(i) in END_NAMES for i in others)
        is_right = set(expected) <= set(found) and (may_be_more or not others)
    if is_right:
        more = f"; also {', '.join(_name(raw, i) for i in others)}, known to end texts" if others else ""
        return passed(SECTION, STOP_IDS, wanted + more)
    if STOP_IDS in release.unverified:
        return unknown(SECTION, STOP_IDS, shown, expected=wanted, advice="not known for certain for this release")
    if not subject.is_gguf and not subject.generation_config and set(found) <= set(expected) and found:
        advice = "put the release's generation_config.json into the folder: it has all ids and the sampling defaults"
        return unknown(SECTION, STOP_IDS, f"{shown} ({where}; no generation_config.json)", expected=wanted, advice=advice)
    advice = f"answers would not end, or end too early: set {where} as expected"
    return failed(SECTION, STOP_IDS, shown, wanted, advice)


def _stated_stops(subject: Subject) -> tuple[tuple[int, ...], str]:
    """The ids that a file states to end an answer, and where it does."""
    if subject.is_gguf:
        value, where = subject.metadata.get("tokenizer.ggml.eos_token_id"), "tokenizer.ggml.eos_token_id"
    elif "eos_token_id" in subject.generation_config:
        value, where = subject.generation_config["eos_token_id"], "eos_token_id in generation_config.json"
    else:
        value, where = subject.config.get("eos_token_id"), "eos_token_id in config.json"
    values = value if isinstance(value, list) else [value]
    return tuple(i for i in values if isinstance(i, int) and not isinstance(i, bool)), where


def _surroundings(opened: OpenTokenizer, release: Release) -> Finding:
    """Embedding models read the state at an end token, which their tokenizer has to append; the others add nothing."""
    what = "added around texts"
    assert opened.raw is not None
    if opened.tokenizer is None:
        return unknown(SECTION, what, "the tokenizer cannot be built; see above")
    expected = [_END_OF_TEXT] if release.kind == "embedding" else []
    found = opened.tokenizer.encode("")
    prefix = found if opened.tokenizer.add_bos else []
    shown = ", ".join(_name(opened.raw, i) for i in found) or "nothing"
    if found == expected and not prefix:
        return passed(SECTION, what, f"{shown} at the end" if found else shown)
    if release.kind == "embedding":
        advice = (
            "vectors would be read at the wrong place, the usual fault of embedding GGUFs: set tokenizer.ggml.add_eos_token "
            f"to true and eos_token_id to {_END_OF_TEXT}, or get a file that was converted with its post-processor"
        )
        return failed(SECTION, what, shown, f"{_END_OF_TEXT} <|endoftext|> at the end", advice)
    advice = "the model was trained without: set tokenizer.ggml.add_bos_token and add_eos_token to false, or convert it again"
    return failed(SECTION, what, shown, "nothing", advice)
