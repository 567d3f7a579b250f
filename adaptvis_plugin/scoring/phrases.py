"""The words of the strict rule: what names a relation, what only looks like a name, and why.

Texts are compared in lower case; each run of spaces, hyphens, underscores and asterisks counts as one space. The values
of `LOOKALIKES` and `NEGATIONS` are only for the reader. The tables are tested on answers that a person judged
(`tests/data/judged_answers.csv`). For a new entry, add an answer that it must catch and one that it must not.
"""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "left": ("left",),
    "leftmost": ("left",),
    "leftward": ("left",),
    "lefthand": ("left",),
    "leftside": ("left",),
    "right": ("right",),
    "rightmost": ("right",),
    "rightward": ("right",),
    "righthand": ("right",),
    "rightside": ("right",),
    "on": ("on",),
    "onto": ("on",),
    "upon": ("on",),
    "draped over": ("on",),
    "over the back of": ("on",),
    "over the arm of": ("on",),
    "over the armrest": ("on",),
    "atop": ("on", "above"),
    "on top": ("on", "above"),
    "ontop": ("on", "above"),
    "on the top": ("on", "above"),
    "above": ("above",),
    "over": ("above",),
    "overhead": ("above",),
    "higher than": ("above",),
    "higher up": ("above",),
    "top": ("above",),
    "topmost": ("above",),
    "upper": ("above",),
    "uppermost": ("above",),
    "highest": ("above",),
    "under": ("below",),
    "underneath": ("below",),
    "beneath": ("below",),
    "below": ("below",),
    "bottom": ("below",),
    "bottommost": ("below",),
    "lower": ("below",),
    "lowermost": ("below",),
    "lowest": ("below",),
    "underside": ("below",),
    "at the base": ("below",),
    "front": ("front",),
    "infront": ("front",),
    "frontmost": ("front",),
    "in the foreground": ("front",),
    "ahead of": ("front",),
    "closer to the camera": ("front",),
    "closer to the viewer": ("front",),
    "closer to us": ("front",),
    "nearer to the camera": ("front",),
    "nearer to the viewer": ("front",),
    "nearer to us": ("front",),
    "behind": ("behind",),
    "rear": ("behind",),
    "rearmost": ("behind",),
    "backmost": ("behind",),
    "in back": ("behind",),
    "in the back": ("behind",),
    "at the back": ("behind",),
    "to the back": ("behind",),
    "toward the back": ("behind",),
    "towards the back": ("behind",),
    "along the back": ("behind",),
    "in the background": ("behind",),
    "farther back": ("behind",),
    "further back": ("behind",),
    "farther from the camera": ("behind",),
    "farther from the viewer": ("behind",),
    "further from the camera": ("behind",),
    "further from the viewer": ("behind",),
}
"""A name in an answer -> the relations that it may mean. `matches` requires that each name may mean the label."""

WHOLE_ANSWERS: dict[str, str] = {
    "back": "behind",
    "background": "behind",
    "foreground": "front",
    "up": "above",
    "higher": "above",
    "down": "below",
}
"""Words that name a relation only if they are the whole answer: "Back", but not "the back of the chair"."""

_END = r"(?= ?(?:[.,;:!?)]|$))"
_SIDES = (
    r"(?:left|leftmost|lefthand|right|rightmost|righthand|bottom|bottommost|topmost|upper|uppermost|lower|lowermost"
    r"|front|rear)\b"
)
_OF = r"(?:(?:the|a|its|his|her|their|your|my|\w+'s) )*"
_THE = r"(?<!\bthe )(?<!\bits )(?<!\byour )(?<!\bmy )(?<!'s )(?<!\btop )(?<!\bbottom )(?<!\bupper )(?<!\blower )"

INTENSIFIED = (
    r"\b(?:the )?(?:far|very|immediate|extreme|direct|absolute) (?=(?:left|right|front|back|top|bottom|rear)\b)"
)
"""What is read as "the", as in "on the far left"."""

LOOKALIKES: dict[str, str] = {
    # on
    rf"on(?= {_OF}{_SIDES})": "the preposition of a side belongs to the side: on the table's left side",
    r"on (?:\w+ ){0,2}sides?": "a side without a name: on the other side",
    r"on (?:(?:the|a) )?(?:\w+ )?(?:floor|ground|wall|ceiling|carpet|rug|street|road|sidewalk|pavement|grass|lawn)": (
        "the surface, not the thing asked about: on the floor, under the table"
    ),
    r"on (?:the|this) (?:image|photo|photograph|picture|screen)": "the picture, not a place in it",
    r"on (?:the|its|his|her) back": "a part of the thing: on the back of the chair",
    r"on (?:its|his|her|their) (?:head|feet|end|own)": "how it lies, not where",
    r"on the(?=\W*$)": "cut off; a side may follow",
    r"(?<=\w )(?<!\bis )(?<!\bbe )(?<!\bsay )(?<!\bwith )(?<!\bchoose )(?<!\bnot )(?<!\bor )(?<!\band )(?<!\bbut )on"
    + _END: "a verb or adverb with on: turned on, later on",
    r"(?:turn(?:ed|s)?|switch(?:ed|es)?|later|early|earlier|from now|from then|and so|based|depend(?:s|ing|ent)?"
    r"|focus(?:ed|es)?|focus is|comment|work|rely|relies|going) (?:up)?on": "the same, inside a sentence",
    r"(?:up)?on (?:display|fire|average|time|purpose|the contrary|the whole|the phone|(?:the )?(?:one|other) hand)": (
        "a set phrase with on"
    ),
    r"(?:up)?on (?:close|closer|careful|further|examin\w+|inspect\w+|look\w*|observ\w+|review\w+|analy\w+)": (
        "a way of looking: on closer inspection"
    ),
    # right
    rf"{_THE}right(?= (?:next|beside|by|near|behind|in(?! relation)|on|at|against|above|over|below|beneath|under"
    r"|underneath|there|here|now|away|after|to the left)\b)": "strengthens the next word: right behind",
    r"(?:that|you|all)(?: is| are|'s|'re)? right" + _END: "agreement: that's right",
    r"right (?:answer|choice|option|response|one|word|angle|side up|way)": "means correct or straight",
    r"(?<=, )right(?= ?\?)": "asks for agreement: on the table, right?",
    # left
    r"left behind" + _END: "the verb: it was left behind",
    rf"{_THE}left(?= (?:the|a|an|his|her|their|its|this|that)\b)": "the verb: the person left the room",
    rf"{_THE}left(?= (?:on|onto|under|underneath|beneath|behind|alone|over|there|here|lying|standing)\b)": (
        "the verb: left on the table"
    ),
    r"(?:nothing|anything|something|(?:no|some|any|much) (?:\w+ )?)left": "what remains: nothing left",
    r"(?:what is|what's|whatever is) left": "what remains",
    r"left to right|right to left": "an order",
    r"(?:he|she|they|who|people|everyone|has|have|had|just|already) (?:just |already )?left"
    + _END: "the verb: she left",
    r"(?:one|two|three|few) (?:\w+ )?(?:is |are )?left" + _END: "what remains: one chair is left",
    # parts and directions
    r"(?:left|right) (?:paw|leg|arm|foot|eye|ear|shoulder|shoe|wing|wheel|handed)s?": "a part: its left paw",
    r"(?:in|with|(?:his|her|its|their|\w+'s)) (?:the )?(?:left|right) hand(?! (?:side|corner|part|edge))": (
        "a part: in his left hand"
    ),
    r"(?:look(?:s|ing)?|fac(?:es|ing)|point(?:s|ing)?|mov(?:es|ing)|head(?:s|ing)|turn(?:s|ed|ing)"
    r"|walk(?:s|ing)|runn?(?:s|ing)) (?:(?:over|to|towards?|the|its|his|her) )*(?:left|right|front|over)(?! of\b)": (
        "a direction: looking to the right"
    ),
    # over, above, below, top, bottom, under
    r"(?<=\w )over" + _END: "a verb with over: turned over",
    r"over(?= (?:there|here|to|by|on|at|in|and|under|time|\d+)\b)": "a direction or an amount: over there, over 10",
    r"all over": "everywhere",
    r"(?:mentioned|described|shown|stated|noted|listed|seen|see) (?:above|below)": "a place in the text",
    r"(?:of )?the above|above all": "a place in the text, a set phrase",
    r"below zero|above (?:average|ground)|under (?:construction|control|consideration|no|the impression|\d+)": (
        "a set phrase"
    ),
    r"(?:tank|table|desk|counter|bench|roof) top|top (?:hat|quality|notch|speed|down)|bottom up": (
        "a thing or a view: tank top, top down"
    ),
    r"on top of (?:that|this|everything)|bottom line": "a set phrase: moreover",
    # front, behind
    r"from (?:the )?(?:above|below|behind|front|top|bottom|rear)": "the point of view: taken from behind",
    r"(?<!\bin )(?<!\bat )(?<!\bto )the front of(?! the (?:photo|image|picture|frame)\b)": "a part of the thing",
    r"(?:(?:in|at) the )?(?:front|rear|back) (?:door|seat|wheel|yard|window|light|leg|row|view|page|facing)s?": (
        "a thing: front door, back seat"
    ),
    r"(?:reason|idea|story|logic) behind|behind the (?:camera|wheel|scenes?)": "a set phrase",
    # words that deny in other places
    r"(?:^|(?<=[.!?] ))(?:is|are|where|does)\b[^.!?]*\?(?= ?\w)": "a question that the answer repeats",
    r"no doubt|without (?:a |any )?doubt|not only": "denies nothing",
}
"""What looks like a name or a denial but is not one (a regular expression for whole words) -> the reason."""

NEGATIONS: dict[str, str] = {
    r"not|never|no longer|nor|neither|cannot|can't|\w+n't|hardly|barely": "not on the table",
    r"no(?! (?:it|the|they|this|that|he|she|its|they're|it's)\b)|none|nothing|nobody|without": "no mug on the table",
    r"whether|if": "it is unclear whether it is on the table",
    r"opposite of|instead of|rather than|anything but|far from|used to": "left rather than right",
}
"""What denies a relation later in the same clause (a regular expression) -> an example."""

CLAUSE_END = r"[.,;:!?()\u2014]|\b(?:(?<!anything )but|and|because|since|so)\b"
"""Where a denial stops applying."""

CORRECTIONS = r"\b(?:(?:wait|actually|correction|i mean|sorry|answer is)\b|answer:)"
"""If the words after this name a relation, only they count: "Left. No, wait, right"."""
