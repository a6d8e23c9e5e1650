"""For each kind of constraint: arguments, responses that follow it, that do not, and that only pretend to."""

from __future__ import annotations

from typing import Any, NamedTuple


class Cases(NamedTuple):
    args: dict[str, Any]
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    cheats: tuple[str, ...]


_GERMAN = "Der Zug kommt heute später, weil es in den Bergen geschneit hat."
_FRENCH = "Le train arrive plus tard aujourd'hui, car il a neigé dans les montagnes."
_ENGLISH = "The train is late today because it has snowed in the mountains."
_ASK = "Name a fruit."
_FIVE = "One two three four five."
_NO_COMMA = ("Sun and sea", "No", "One; two: three."), ("Sun, sea", "1,000", ","), ("Sun， sea", "شمس، بحر", "日、月")
_TITLES = ("<<Day>>\nText", "Text <<of joy>> text", "<< A >>"), ("Text", "<Day>", "<<Day"), ("<<>>", "<< >>", "<<.>>")
_BULLETS = (
    ("* a\n* b", "- a\n- b", "Text:\n  * a\n  - b\nend"),
    ("* a", "* a\n* b\n* c", "a\nb"),
    ("*\n*", "- \n-", "---\n* a", "** a\n** b"),
)
_PLACES = (
    ("[name] and [place]", "[a][b]", "Dear [name],\nsee [place] and [date]"),
    ("[name]", "name and place", "(a) (b)"),
    ("[] []", "[ ] [.]", "[[[[", "[a\nb] [c"),
)
_HIGHLIGHTS = (
    ("*one* and *two*", "**one** and **two**", "*one* **two**"),
    ("*one*", "one two", "*one two"),
    ("** ** ** **", "*.* *-*", "* one\n* two"),
)
_QUOTED = ('"Yes."', ' "One two" \n', '"a"'), ("Yes.", '"Yes.', "'Yes.'"), ('""', '"', '" "', '"."')
_JSON = (
    ('{"a": 1}', "[1, 2]", '```json\n{"a": [true, null]}\n```'),
    ("a", '{"a": }', "{'a': 1}"),
    ("12345", '"text"', '{"a": NaN}', "[" * 50_000, '{"a": 1} and more'),
)
_TWO_RESPONSES = (
    ("One.\n******\nTwo.", "a ****** b", "******\nOne.\n******\nTwo."),
    ("One.", "One.***Two.", "a ****** b ****** c", "a******b"),
    ("One.\n******\nOne.", "One. ****** one!", "One.\n******", "One. ************ Two."),
)
_CAPITALS = (
    (_ENGLISH.upper(), "THANK YOU, AND GOOD MORNING!", "THE ANSWER IS 42."),
    (_ENGLISH, "The end", "tHE TRAIN"),
    ("12345", "!!!", _GERMAN.upper(), "МОЙ БРАТ ЗДЕСЬ"),
)
_LOWER = (
    (_ENGLISH.lower(), "thank you, and good morning!", "the answer is 42."),
    (_ENGLISH, "The end", "THE TRAIN"),
    ("12345", "...", _GERMAN.lower(), "мой брат здесь"),
)
_POSTSCRIPT = (
    ("Dear Ann.\nP.S. Call me.", "Text. P.S. Bye", "text\np.s. more"),
    ("Dear Ann.", "PS call me", "Text\nPost scriptum: call me"),
    ("Text\nP.S.", "Text\nP.S. ...", "ups.p.s"),
)
_REPEATS = (
    (f"{_ASK} Apple.", f"{_ASK}\n\nAn apple", f"{_ASK.upper()} PEAR"),
    ("Apple.", f"Sure: {_ASK} Apple.", "Name a vegetable. Leek."),
    (_ASK, f"{_ASK} ...", "Name a"),
)
_KEYWORDS = (
    ("Sun over the sea", "SEA, SUN", "The sunny seaside"),
    ("The sun", "a sea", "moon"),
    ("s u n and s e a", "sum sew", "ѕun and ѕea"),
)
_FORBIDDEN = (
    ("A plain day", "Sunday in spring", "seal"),
    ("The sun", "SEA", "Look at the sun!"),
    ("s\u200bun", "«sun»", "*sun*"),
)
_GERMAN_CASES = (
    (_GERMAN, "Ich weiß es nicht.", f"{_GERMAN} {_GERMAN.upper()}"),
    (_ENGLISH, _FRENCH, "Het regent vandaag in de stad en de kinderen spelen binnen."),
    ("12345", "...", f"{_ENGLISH} {_ENGLISH} Und der die das.", f"{_GERMAN} Мой брат живёт далеко от города."),
)
_COPY = (
    (_ASK, f" {_ASK}\n", _ASK.lower()),
    ("Apple.", "Name a fruit", ""),
    (f"{_ASK} Apple.", f"{_ASK}{_ASK}", f'"{_ASK}"'),
)
_PARAGRAPHS = (
    ("One.\n***\nTwo.", "One.***Two.", "***\nOne.\n***\nTwo.\n***"),
    ("One.", "One.\n\nTwo.", "One.\n***\nTwo.\n***\nThree."),
    ("***\n***", "One.\n***\n***\nTwo.", "One.\n***"),
)
_SECTIONS = (
    ("Section 1\nOne.\nSection 2\nTwo.", "Section 1 a Section 2 b Section 3 c", "Intro. Section 1: a. Section 2: b."),
    ("Section 1\nOne.", "Part 1\nOne.\nPart 2\nTwo.", "Section one\na\nSection two\nb"),
    ("Section 1 Section 2", "Section 1\nOne.\nSection 2\n", "Section\nSection"),
)
_FIRST_OF_SECOND = (
    ("One.\n\nThen two.", "A\n\n'then' b", "A\n\n\n\nThen, b"),
    ("One.\n\nTwo.", "Then one.\n\nTwo.", "One.\n\nThen.\n\nThree."),
    ("One.\n\nThence two.", "One.\nThen two.", "\n\nThen two.\n\n"),
)
_LETTER = (
    ("banana", "A man, a cat", "aaa"),
    ("an apple", "sky", "b"),
    ("ααα", "a a", "@@@"),
)
_END = (
    ("Yes. That is all.", 'Yes. "That is all."', "that is all. "),
    ("That is all. Bye", "Yes.", "That is"),
    ("That is all. ...", "That is all", "That is all.\n-"),
)
_CAPITAL_WORDS = (
    ("ONE TWO and three", "A-B and C", "NASA, USA; more"),
    ("ONE two", "one two", "One Two"),
    ("ONE-TWO", "12 34", "DON'T stop"),
)
_OPTIONS = (
    ("My answer is yes.", "Well. My answer is no. Because it rains.", "My answer is maybe."),
    ("Yes.", "my answer is yes.", "My answer is perhaps."),
    ("My answer is yes. My answer is no.", "My answer is yes", "Whether My answer is yes. or My answer is maybe."),
)

IFEVAL: dict[str, Cases] = {
    "keywords:existence": Cases({"keywords": ["sun", "sea"]}, *_KEYWORDS),
    "keywords:frequency": Cases(
        {"keyword": "sun", "frequency": 2, "relation": "at least"},
        ("sun sun", "Sun and SUN", "The sun. The sun? The sun!"),
        ("sun", "moon moon", "su n"),
        ("ѕun ѕun", "s-u-n s-u-n", "sun s un"),
    ),
    "keywords:forbidden_words": Cases({"forbidden_words": ["sun", "sea"]}, *_FORBIDDEN),
    "keywords:letter_frequency": Cases({"letter": "A", "let_frequency": 3, "let_relation": "at least"}, *_LETTER),
    "language:response_language": Cases({"language": "de"}, *_GERMAN_CASES),
    "length_constraints:number_sentences": Cases(
        {"num_sentences": 2, "relation": "at least"},
        ("One day. Two days!", "Is it? Yes it is.", "我很好。你好吗？"),
        ("One day.", "One day, two days", "Mr. Smith paid $3.50 to Dr. Jones"),
        ("Yes. ! ! !", "A.B.C.D is a name", "1. 2. 3."),
    ),
    "length_constraints:number_paragraphs": Cases({"num_paragraphs": 2}, *_PARAGRAPHS),
    "length_constraints:number_words": Cases(
        {"num_words": 5, "relation": "at least"},
        (_FIVE, "It's a fine day", "हम सब आज घर में"),
        ("One two", "One two three four", "1 2 3"),
        (". . . . .", "a- - - - b", "* * * * *"),
    ),
    "length_constraints:nth_paragraph_first_word": Cases(
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"}, *_FIRST_OF_SECOND
    ),
    "detectable_content:number_placeholders": Cases({"num_placeholders": 2}, *_PLACES),
    "detectable_content:postscript": Cases({"postscript_marker": "P.S."}, *_POSTSCRIPT),
    "detectable_format:number_bullet_lists": Cases({"num_bullets": 2}, *_BULLETS),
    "detectable_format:constrained_response": Cases({}, *_OPTIONS),
    "detectable_format:number_highlighted_sections": Cases({"num_highlights": 2}, *_HIGHLIGHTS),
    "detectable_format:multiple_sections": Cases({"section_spliter": "Section", "num_sections": 2}, *_SECTIONS),
    "detectable_format:json_format": Cases({}, *_JSON),
    "detectable_format:title": Cases({}, *_TITLES),
    "combination:two_responses": Cases({}, *_TWO_RESPONSES),
    "combination:repeat_prompt": Cases({"prompt_to_repeat": _ASK}, *_REPEATS),
    "startend:end_checker": Cases({"end_phrase": "That is all."}, *_END),
    "startend:quotation": Cases({}, *_QUOTED),
    "change_case:capital_word_frequency": Cases(
        {"capital_frequency": 2, "capital_relation": "at least"}, *_CAPITAL_WORDS
    ),
    "change_case:english_capital": Cases({}, *_CAPITALS),
    "change_case:english_lowercase": Cases({}, *_LOWER),
    "punctuation:no_comma": Cases({}, *_NO_COMMA),
}

IFEVALG: dict[str, Cases] = {
    "copy:repeat_phrase": Cases(
        {"phrase": "Time flies when having fun", "small_n": 2},
        (
            "Time flies while having fun. Time runs when having fun.",
            "Time flies when making fun\nTime flies when losing fun",
            "So: Time flies if having fun; Time flew when having fun.",
        ),
        ("Time flies while having fun.", "Nothing at all.", "Time runs when having fun " * 3),
        (
            "Time flies when having fun. Time flies when having fun.",
            "Time flies when having fun. Time runs when having fun.",
            "Time runs while making fun. Time flies if having fun.",
        ),
    ),
    "copy:copy": Cases({"prompt_to_repeat": _ASK}, *_COPY),
    "copy:copying_simple": Cases({"prompt_to_repeat": _ASK}, *_COPY),
    "copy:copying_multiple": Cases(
        {"prompt_to_repeat": _ASK, "N": 2},
        (f"{_ASK}******{_ASK}", f"{_ASK}\n******\n{_ASK}\n", f"{_ASK.lower()}******{_ASK}"),
        (_ASK, f"{_ASK}******Apple.", f"{_ASK}******{_ASK}******{_ASK}"),
        (f"{_ASK}{_ASK}", f"{_ASK}******", f"******{_ASK}"),
    ),
    "new:copy_span_idx": Cases(
        {"prompt_to_repeat": _ASK, "n_start": 5, "n_end": 11},
        ("a frui", "a fruit", " A FRUI\n"),
        ("fruit", "Name a", "apple"),
        (_ASK, "a fruit.", "a frui t"),
    ),
    "detectable_format:sentence_hyphens": Cases(
        {},
        ("One day.-Two days.", "Yes!-No?-Well.", "One sentence alone."),
        ("One day. Two days.", "One day. -Two days.", "One day.- Two days."),
        ("One-two-three.", "-One day.", "One day.--Two days.", "One day.-"),
    ),
    "detectable_format:square_brackets": Cases(
        {},
        ("[One] [two]", "[One]\n[two.]", "[a]"),
        ("One two", "[One] two", "[One two]"),
        ("[]", "[One] []", "[.] [-]", "[One],"),
    ),
    "detectable_format:bigram_wrapping": Cases(
        {},
        ("<<I am>> <<at home>>", "<<my cute>>\n<<little dog>>", "<<one two>> <<three>>"),
        ("I am at home", "<<I am at home>>", "<<I am>> at home"),
        ("one", "<<I am>> <<>>", "<<. .>>", "<<I>> <<am>>"),
    ),
    "keywords:no_adjacent_consecutive": Cases(
        {},
        ("Ann can eat", "Zoe ate 1 2 figs", "big bad bear"),
        ("a bear", "Can dogs bark", "Yes, Zoe"),
        ("a (bear)", "*A* **bear**", "“a” “bear”"),
    ),
    "keywords:word_once": Cases(
        {"keyword": "sun"},
        ("The sun is out", "SUN", "A sunny day"),
        ("The moon", "sun and sun", "Sun. Sun. Sun."),
        ("sun s\u200bun", "ѕun", "s u n"),
    ),
    "keywords:word_count_different_numbers": Cases(
        {"keyword": "sun", "frequency": 2, "relation": "less than"},
        ("moon", "one sun", "S un sun"),
        ("sun sun", "Sun and SUN", "sun sun sun"),
        ("s\u200bun sun", "sunsun", "SUN-sun"),
    ),
    "keywords:exclude_word_harder": Cases(
        {"keyword": "to"},
        ("Go tomorrow", "Stop", "Not today"),
        ("Go to town", "where to", "To be"),
        ("(to)", "go to.", "t\u200bo be"),
    ),
    "keywords:palindrome": Cases(
        {},
        ("My level is low", "Anna ran", '"Kayak," he said'),
        ("No such word", "One two three", "palindrome"),
        ("I am a", "...", "aa", "1221 ***"),
    ),
    "keywords:keyword_specific_position": Cases(
        {"keyword": "sun", "n": 2, "m": 3},
        ("Hello there. See the sun today.", "Yes! Oh, (the) sun.", "A b. C d Sun!"),
        ("See the sun.", "One. See sun.", "One. Two. See the sun."),
        ("! . See the sun", "Hello there. See - sun.", "Hello. See the sunset."),
    ),
    "keywords:start_end": Cases(
        {},
        ("Sun is the sun", "Yes yes", "no, I said no"),
        ("The sun", "One two three", "Sun is the moon"),
        ("Sun is the sun.", "sun", "Sun is the sun!!", "- -"),
    ),
    "paragraphs:paragraphs": Cases(
        {}, (*_PARAGRAPHS[0], "One.\n* * *\nTwo."), _PARAGRAPHS[1], (*_PARAGRAPHS[2], "* * *\nOne.")
    ),
    "paragraphs:paragraphs2": Cases(
        {},
        ("One.\n\nTwo.", "One.\n \nTwo.", "One.\n\n\n\nTwo.\n\n"),
        ("One.", "One.\nTwo.", "One.\n\nTwo.\n\nThree."),
        ("One.\n\n", "\n\n\n\n", "One.***Two."),
    ),
    "first_word:first_word_sent": Cases(
        {"first_word": "sun"},
        ("Sun is out. Sun is up.", "Sun!", '"Sun, sea." Sun and sand'),
        ("The sun is out.", "Sun is out. It is up.", "Moon."),
        ("Sun is out. Sunny it is.", "...", "Sun-like it is."),
    ),
    "first_word:first_word_answer": Cases(
        {"first_word": ["sun"]},
        ("Sun is out", "sun.", "“Sun”, he said"),
        ("The sun", "Moon", "Sunny"),
        ("- sun", "S un", "Sun-like"),
    ),
    "last_word:last_word_sent": Cases(
        {"last_word": "sun"},
        ("I see the sun. You see the SUN!", "sun", 'He said "sun." Look: sun'),
        ("The sun is out.", "I see the sun. You see it.", "Moon."),
        ("I see the sunsun.", "...", "I see a sea-sun."),
    ),
    "last_word:last_word_answer": Cases(
        {"last_word": "sun"},
        ("I see the sun.", "sun", "Look at the *sun*!"),
        ("The sun is out.", "moon", "sunny"),
        ("the sun - -", "s u n", "sun ..."),
    ),
    "punctuation:punctuation_dot": Cases(
        {},
        ("No stop here", "What? Yes!", "One, two"),
        ("One.", "3.5", "..."),
        ("One。", "One…", "One․"),
    ),
    "punctuation:punctuation_exclamation": Cases(
        {},
        ("Calm.", "What?", "One, two"),
        ("Hey!", "!", "a != b"),
        ("Hey！", "Hey❗", "¡Hey"),
    ),
    "count:lowercase_counting": Cases(
        {"N": 2},
        ("ONE two three", "ONLY CAPITALS", "One Two"),
        ("one two three", "A b c d", "the sun is out"),
        ("ein zwei drei", "один два три", "é è ê"),
    ),
    "count:count_unique": Cases(
        {},
        ("One two three.", "Yes!", "A cat, the dog."),
        ("one and one", "The cat saw the dog", "a a"),
        ("One one", "cat Cat", "...", "dog. «dog»"),
    ),
    "count:count_increment_word": Cases(
        {"keyword1": "sun", "keyword2": "sea"},
        ("sun sea sea", "The sun, the sea and the SEA", "sea Sun sea"),
        ("sun sea", "sea sea", "sun sun sea sea"),
        ("sun sea s\u200bea sea", "s u n sea sea", "ѕun sea sea"),
    ),
    "count:counting_composition": Cases(
        {"n_sent": 1, "n_words": 2},
        ("One two.\n***\nOne two.\n***\nOne two.", "A b! *** C d! *** E f!", "A b\n* * *\nC d\n* * *\nE f"),
        ("One two.", "One two.\n***\nOne two.", "One two three.\n***\nOne two.\n***\nOne two."),
        ("One .\n***\nOne two.\n***\nOne two.", "***\n***\n***", "A b. C d.\n***\nA b.\n***\nA b."),
    ),
    "letters:letter_counting": Cases(
        {"N": 5, "relation": "less than"},
        ("One", "1234567", "a b c d"),
        ("Three", "One two", "abcdefgh"),
        ("a.b.c.d.e", "Привет", "éééééé"),
    ),
    "letters:letter_counting2": Cases({"letter": "a", "let_frequency": 3, "let_relation": "at least"}, *_LETTER),
}

FUNCTIONS: dict[str, Cases] = {
    "verify_keywords": Cases({"keyword_list": ["sun", "sea"]}, *_KEYWORDS),
    "verify_keyword_frequency": Cases(
        {"word": "sun", "N": 2},
        ("sun sun", "Sun, SUN", "The sun, a sun and sunny"),
        ("sun", "sun sun sun", "moon"),
        ("sunny sunset", "sun sunshine", "sun ѕun"),
    ),
    "validate_forbidden_words": Cases({"forbidden_words": ["sun", "sea"]}, *_FORBIDDEN),
    "verify_letter_frequency": Cases(
        {"letter": "a", "N": 2},
        ("banan", "a a", "A cat and"),
        ("cat", "banana", "sky"),
        ("aA", "а а", "ä a"),
    ),
    "validate_response_language": Cases({"language": "de"}, *_GERMAN_CASES),
    "verify_paragraph_count": Cases(
        {"N": 2},
        ("One.\n* * *\nTwo.", "One. * * * Two.", "One.\n***\nTwo."),
        ("One.", "One.\n\nTwo.", "One.\n* * *\nTwo.\n* * *\nThree."),
        ("One.\n* * *", "* * *\n* * *", "One.\n* * *\n* * *\nTwo."),
    ),
    "validate_word_constraint": Cases(
        {"N": 20, "quantifier": "around"},
        ("word " * 20, "word " * 18, "word " * 22),
        ("word " * 17, "word " * 23, "one"),
        ("word" * 20, "word-" * 20, "a"),
    ),
    "verify_sentence_constraint": Cases(
        {"N": 3, "quantifier": "around"},
        ("A b. C d.", "A b. C d. E f.", "A b. C d. E f. G h."),
        ("A b.", "A b. " * 5, "a"),
        ("A b. . .", "...", "! ! !"),
    ),
    "validate_paragraphs": Cases({"N": 2, "i": 2, "first_word": "Then"}, *_FIRST_OF_SECOND),
    "verify_postscript": Cases({"postscript_marker": "P.S."}, *_POSTSCRIPT),
    "validate_placeholders": Cases({"N": 2}, *_PLACES),
    "verify_bullet_points": Cases({"N": 2}, *_BULLETS),
    "validate_title": Cases({}, *_TITLES),
    "validate_choice": Cases(
        {"options": ["red", "dark red", "blue"]},
        ("I choose red.", "dark red", "Blue is good, so blue it is: blue"),
        ("green", "none", "RED"),
        ("red or blue", "redder", "dark red, and plain red"),
    ),
    "validate_highlighted_sections": Cases({"N": 2}, *_HIGHLIGHTS),
    "validate_sections": Cases({"N": 2, "section_splitter": "Section"}, *_SECTIONS),
    "validate_json_format": Cases({}, *_JSON),
    "validate_repeat_prompt": Cases({"original_prompt": _ASK}, *_REPEATS),
    "validate_two_responses": Cases({}, *_TWO_RESPONSES),
    "validate_uppercase": Cases({}, *_CAPITALS),
    "validate_lowercase": Cases({}, *_LOWER),
    "validate_frequency_capital_words": Cases({"N": 2, "quantifier": "at least"}, *_CAPITAL_WORDS),
    "validate_end": Cases({"end_phrase": "That is all."}, *_END),
    "validate_quotation": Cases({}, *_QUOTED),
    "validate_no_commas": Cases({}, *_NO_COMMA),
}

CASES: dict[str, Cases] = {**IFEVAL, **IFEVALG, **FUNCTIONS}
