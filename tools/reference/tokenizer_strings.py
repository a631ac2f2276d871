"""tokenizer_strings.py - the strings of the tokenizer's golden file.

Every group aims at one place where tokenizers go wrong. Mixed strings are drawn with a seeded
generator from the pieces of all groups, so that boundaries between scripts, blanks, digits and added
tokens meet in ways nobody thought of. NUL is left out: a C string cannot carry it.
"""

import random
import unicodedata

WORDS = """a red circle|a blue square on the left of a green triangle|The quick brown fox jumps over the lazy dog.
Hello, world!|hello hello hello|HELLO Hello hELLO|circle|circles encircled|square squares squared|the theatre other
misunderstanding antidisestablishmentarianism|x|I|a b c d e f g|co-operate state-of-the-art|snake_case camelCase PascalCase
e-mail@example.org|user.name+tag@sub.example.org|path/to/file.txt|C:\\Users\\name\\file.txt|"quoted 'inner' text"
(parenthesised) [bracketed] {braced} <angled>|50% off!!! $19.99 #hashtag @mention|a&b a|b a^b a~b a`b`
to be, or not to be: that is the question;|...|.....wait...what?!|?!?!?!|--- *** ___ +++ ===|:-) ;-) :( :D <3""".replace(
    "\n", "|").split("|")

CONTRACTIONS = """it's|It'S|IT'S|don't|DON'T|we're|WE'RE|I've|I'VE|I'm|I'M|they'll|they'LL|she'd|SHE'D|'s|'S|'ll|'Ll|'t|'d
's's's|''s|'sword|'tis|'twas the night|rock 'n' roll|o'clock|o'clocks 'll|y'all'd've|l'\u00e9t\u00e9|d'accord
the dogs' bones|'re 're're|'|''|'''|' s|s'|\u2019s|it\u2019s|don\u2019t|'\u017f|'\u017f'\u017f|I'M'm'VE've""".replace(
    "\n", "|").split("|")

NUMBERS = """0|1|12|123|1234567890|3.14159|1,000,000|1e-5|0x1F|-42|+7|10%|2025-01-31|12:34:56|v1.2.3-rc4|192.168.0.1
1st 2nd 3rd|7x8=56|a1b2c3|1a|a1|\u0663\u0664\u0665|\u0967\u0968\u0969|\u2460\u2461\u2462|\u00bd\u00be|x\u00b2+y\u00b3|\u2167
\u4e00\u4e8c\u4e09|\U0001d7d8\U0001d7d9|\uff11\uff12\uff13|10\u00a0000|H\u2082O|1 2 3 4|  12  34  |00012""".replace(
    "\n", "|").split("|")

BLANKS = [" ", "  ", "   ", "    ", " " * 17, "\t", "\t\t", " \t ", "\n", "\n\n", "\n\n\n", "\n" * 12, "\r", "\r\n",
          "\r\n\r\n", "\n\r", "a\nb", "a\r\nb", "a\rb", " \n", "\n ", "  \n  ", "a \n b", "a\n\n\nb", "a  b", "a   b",
          "a    b", " a", "  a", "   a", "a ", "a  ", "a   ", "\ta", "a\t", "\t a", " \ta", "a\t\tb", "a \t b",
          "line one\nline two\nline three", "  indented\n    more\n\tmixed", "trailing blanks   \nnext", "\n\n  a",
          "a\n  \n  b", "!\n", "!\n\n", "!\r\n", " !\n\n!", ".\n.\n.", "...\n\n\n...", "a!\nb", "a \n", "a\u00a0b",
          "\u00a0", "\u00a0\u00a0a", "\u2003em\u2003space", "\u3000\u5168\u89d2", "a\u2028b\u2029c", "a\u0085b", "\u1680a",
          "\u200b", "a\u200bb", "\ufeffa", "a\ufeff", "\u202fa\u202fb", "\x0b\x0c", "a\x0bb", "a\x0cb", "\n\x0b\n",
          " \n \n \n ", "\t\n\t\n", "  .", "  !!", "   'll", "  's", "  12", "  \u732b", "  \U0001f600", " \u0301"]

COMPOSED = ["\u00e9", "e\u0301", "caf\u00e9", "cafe\u0301", "A\u030a", "\u212b", "\u00c5", "n\u0303", "\u00f1",
            "o\u0302\u0301", "\u1ed1", "q\u0323\u0307", "q\u0307\u0323", "\u1e69", "s\u0323\u0307", "s\u0307\u0323",
            "\u0344", "\u0958", "\u2126", "\u212a", "\ufb01", "\uf900", "\u0340", "e\u0301\u0301", "\u0301", "\u0301\u0301a",
            "a\u0328\u0301", "a\u0301\u0328", "d\u0323\u0307", "\u1e0d\u0307", "\u1e0b\u0323", "x\u0338", "=\u0338", "<\u0338",
            ">\u0338", "\u226e", "\u226f", "\u2260", "\u0627\u0653", "\u0622", "\u0929", "\u0928\u093c", "\u30ab\u3099", "\u30ac",
            "\u1100\u1161", "\u1100\u1161\u11a8", "\uac00\u11a8", "\uac01", "\u1112\u1161\u11ab\u1100\u1173\u11af", "\ud55c\uae00",
            "na\u00efve co\u00f6perate", "nai\u0308ve coo\u0308perate", "Z\u0351\u036b\u0343a\u0321l\u0334g\u0321o\u0322",
            "\u1e9b\u0323", "\u0f71\u0f72\u0f74", "\u0f43", "\U0001d15e", "\U0002f800", "\U000110a5", "\u0b47\u0b56",
            "1\u0301", "!\u0301", " \u0301a", "\n\u0301", "e\u0301e\u0301 e\u0301", "\u00e9\u0301", "\u0041\u0300\u0315\u0323"]

SCRIPTS = """\u732b\u304c\u5ea7\u3063\u3066\u3044\u308b\u3002|\u7ea2\u8272\u7684\u5706\u5f62|\u4e00\u53ea\u732b\uff0c\u4e24\u53ea\u72d7\uff01|\u30ab\u30bf\u30ab\u30ca\u3068\u3072\u3089\u304c\u306a|\uff76\uff80\uff76\uff85
\ube68\uac04 \uc6d0\uacfc \ud30c\ub780 \uc0ac\uac01\ud615|\uc548\ub155\ud558\uc138\uc694, \uc138\uacc4!|\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645|\u062f\u0627\u0626\u0631\u0629 \u062d\u0645\u0631\u0627\u0621\u060c \u0645\u0631\u0628\u0639|\u0627\u0644\u0633\u064e\u0651\u0644\u0627\u0645\u064f
\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd|\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd|\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!|\u041a\u0440\u0430\u0441\u043d\u044b\u0439 \u043a\u0440\u0443\u0433|\u0413\u0435\u0440\u043e\u0301\u0439 \u0439\u043e\u0433\u0430|\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac \u03ba\u03b5\u03af\u03bc\u03b5\u03bd\u03b1|\u1f00\u03c1\u03c7\u1fc7
\u0939\u093f\u0928\u094d\u0926\u0940 \u092a\u093e\u0920|\u0915\u094d\u0937\u0924\u094d\u0930\u093f\u092f|\u0ba4\u0bae\u0bbf\u0bb4\u0bcd|\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01|\u0e01\u0e33\u0e25\u0e31\u0e07|\u1019\u103c\u1014\u103a\u1019\u102c|\u10e5\u10d0\u10e0\u10d7\u10e3\u10da\u10d8|\u0540\u0561\u0575\u0565\u0580\u0565\u0576
Ti\u1ebfng Vi\u1ec7t c\u00f3 d\u1ea5u|Tie\u0302\u0301ng Vie\u0323\u0302t|\u0130stanbul \u0131\u015f\u0131k|\u00e7a va tr\u00e8s bien|stra\u00dfe GRO\u1e9eE|\u01c5 \u01c6 \u01c4|\u02bbokina|\u13a0\u13b3\u13a9|\u1f600|\u16a0\u16a2
\u00bfqu\u00e9 tal? \u00a1hola!|\u0153uvre \u00e6ther|\u0141\u00f3d\u017a|\u010de\u0161tina \u0159\u016f\u017ee|\u00fe\u00f3r\u00f0ur|\u4e2d\u6587abc\u4e2d\u6587|abc\u4e2d\u6587 123|\u65e5\u672c\u8a9e123\u5e74|\u300c\u5f15\u7528\u300d\u3010\u62ec\u5f27\u3011|\u2014 em\u2014dash \u2013 en
\u201ccurly\u201d \u2018quotes\u2019|\u2026ellipsis\u2026|\u00a9 \u00ae \u2122|\u20ac \u00a3 \u00a5 \u20b9|\u221a2 \u2248 1.414|\u2200x\u2208\u211d: x\u00b2\u22650|\u2190\u2191\u2192\u2193|\u2591\u2592\u2593\u2588|\u266a\u266b|\u00b0C \u00b5m \u03a9""".replace(
    "\n", "|").split("|")

EMOJI = """\U0001f600|\U0001f600\U0001f601\U0001f602|a\U0001f600b|a \U0001f600 b|\U0001f44d\U0001f3fd|\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466|\U0001f3f3\ufe0f\u200d\U0001f308|\u2764\ufe0f|\u2764|\U0001f1eb\U0001f1f7|\U0001f1eb\U0001f1f7\U0001f1e9\U0001f1ea
1\ufe0f\u20e3|\U0001f9d1\u200d\U0001f680 in space|\u263a|\u263a\ufe0f|\U0001f600\n|\U0001f600\r\n\U0001f600|!\U0001f600!|\U0001f600's|\U0001f600123|\U0001fae0 new|\U0001f469\U0001f3ff\u200d\U0001f52c|\u200d|\u200c|a\u200db|\u0915\u094d\u200d\u0937|\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645""".replace(
    "\n", "|").split("|")

ADDED = ["<|im_start|>", "<im_start>", "<|im_start|><im_start>", "<im_start><|im_start|>", "<|im_end|><im_end>",
         "<S0>", "<S1><S2>", "<S3>", "<I0>", "<I63>", "<I64>", "<I1><I2><I3>", "<I007>", "<I-1>", "<I>", "<I0", "I0>",
         "<S0>\u0338", "<S0\u0338>", "\u0338<S0>", "<S0>\u0338<S0>", "<I5>\u0338", "<\u0338S0>", "a<S0>b", "a <S0> b",
         "<s0>", "<i0>", "< S0>", "<S0><im_start>", "<im_start><S0>", "<im_start>\u0338", "<|im_end|>\u0338",
         "<<S0>>", "<I1<I2>", "<<|im_start|>>", "<|im_start|", "|im_start|>", "<|im_start|>user\nhi<|im_end|>\n",
         "<|endoftext|>", "<|endoftext|><|endoftext|>", "text<|endoftext|>text", "<think>", "</think>",
         "<think>\n\n</think>\n\n", "<tool_call>{\"a\": 1}</tool_call>", "<tool_response>ok</tool_response>",
         "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>", "<|vision_pad|><|video_pad|>",
         "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>", "<|fim_pad|><|repo_name|>r<|file_sep|>",
         "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(1,2)<|box_end|>", "<|quad_start|><|quad_end|>",
         " <S0> ", "\n<S0>\n", "  <|im_end|>  ", "it<S0>'s", "12<I3>34", "e<S0>\u0301", "e<|im_end|>\u0301",
         "\u1100<S0>\u1161", "caf\u00e9<I9>caf\u00e9", "<image>", "<|IM_START|>", "<\uff33\uff10>", "<I\u0661>", "<I12>\u0301",
         "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nPlease generate image based "
         "on the following caption: a red circle<|im_end|>\n<|im_start|>assistant\n<im_start><S0>"]

CODE = """int main(void) { return 0; }|for (size_t i = 0; i < n; i++)\n    sum += a[i];|def f(x):\n    return x ** 2\n
#include <stdio.h>|if (a && b || !c) { x->y = *p++; }|{"key": "value", "n": [1, 2.5, null, true]}|SELECT * FROM t WHERE a = 'b';
<div class="x">text</div>|$ ls -la | grep '^d' > out.txt 2>&1|a = b == c != d <= e >= f|lambda x: x[::-1]|\\frac{a}{b} \\\\ \\n
// comment\n/* block\n * comment */|https://example.org/path?q=1&r=2#frag|\x1b[31mred\x1b[0m|key=value;key2=value2|@@ -1,3 +1,4 @@
%d %s %5.2f\\n|0b1010 0o17 1_000|<!-- c -->|```c\nx\n```|| a | b |\n|---|---|""".split("\n")
CODE = [part for line in CODE for part in line.split("|") if part] + [
    "def f(x):\n    return x ** 2\n", "if x:\n\treturn\n\n\nelse:\n\t\tpass", "a\\b", "tab\there", "\\n is not \n"]

CONTROLS = [chr(c) for c in range(1, 32)] + ["\x7f", "a\x01b", "\x1b[0m", "\x80", "\x9f", "\u00ad", "so\u00adft",
            "\ufffd", "\ufffe", "\uffff", "\U0010ffff", "\ue000", "\U000f0000", "\u202eabc", "\u2066a\u2069", "\U000e0041"]

LONG = ["a" * 300, " " * 100, "\n" * 64, "ab " * 100, "!" * 100, "1" * 50, "\u732b" * 60, "\U0001f600" * 30, "e\u0301" * 60,
        "the circle " * 40, "'s" * 40, " \n" * 40, "\r\n" * 30, "a\u0301\u0302\u0303\u0304\u0305\u0306\u0307\u0308" * 6,
        "<S0>" * 20, "<" * 40, "in" * 50, "circlecircle" * 10, "hellhellhell!!!!!!!!" * 5]


def mixed(count, seed=7):
    """Random concatenations of pieces of all groups, with random single characters in between."""
    rng = random.Random(seed)
    groups = [WORDS, CONTRACTIONS, NUMBERS, BLANKS, COMPOSED, SCRIPTS, EMOJI, ADDED, CODE]
    glue = ["", "", "", " ", " ", "  ", "\n", "\r\n", "'", "<", ">", "\u0301", "\u0338", ".", "\u200d", "1", "\u00e9"]
    out = []
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(2, 6)):
            parts += [rng.choice(rng.choice(groups)), rng.choice(glue)]
        out.append("".join(parts))
    return out


def random_code_points(count, seed=11):
    """Strings of assigned characters from all over Unicode."""
    rng = random.Random(seed)
    out = []
    while len(out) < count:
        points = [chr(rng.choice([rng.randrange(0x20, 0x250), rng.randrange(0x300, 0x3000),
                                  rng.randrange(0x3000, 0xd800), rng.randrange(0xf900, 0x1f900)]))
                  for _ in range(rng.randint(3, 12))]
        # Characters newer than Unicode 13 are classed differently by libraries of different age.
        out.append("".join(c for c in points if unicodedata.category(c) != "Cn" and is_old(c)))
    return [text for text in out if text]


def is_old(char):
    """Assigned by Unicode 3.2: the one old database that Python carries."""
    return unicodedata.ucd_3_2_0.category(char) != "Cn"


def strings():
    """All strings, in order, without repeats."""
    groups = [[""], WORDS, CONTRACTIONS, NUMBERS, BLANKS, COMPOSED, SCRIPTS, EMOJI, ADDED, CODE, CONTROLS, LONG,
              mixed(200), random_code_points(60)]
    return list(dict.fromkeys(text for group in groups for text in group))
