"""Writes kSpecialCases of src/tokenizer/jinja_unicode.cc: code points whose uppercase is more than one."""


def literal(text):
    return 'U"' + "".join(f"\\u{ord(c):04x}" if ord(c) >= 0xA0 else c for c in text) + '"'


for code in range(0x110000):
    if not 0xD800 <= code < 0xE000 and len(chr(code).upper()) > 1:
        print(f"    {{0x{code:04x}, {literal(chr(code).upper())}, {literal(chr(code).title())}}},")
