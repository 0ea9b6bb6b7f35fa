"""Python values as JSON text that gives exactly the same values back, or a refusal that says where and why.

Two encodings. PLAIN is ordinary JSON, used where that is proved exact for the value at hand. TYPED is JSON in
which a value that JSON does not know is an object with one key that starts with `~`:

    {"~datetime": text}   {"~time": text}       or [text, fold, zone], where zone is null, a key such as
                                                "Europe/Berlin", or [offset in microseconds, name or null]
    {"~date": text}       {"~timedelta": [days, seconds, microseconds]}
    {"~uuid": text}       {"~decimal": text}    {"~bytes": base64}     {"~bytearray": base64}
    {"~tuple": [..]}      {"~set": [..]}        {"~frozenset": [..]}   (sets are sorted by their text)
    {"~int": hex}         (outside int64)       {"~float": "nan", "inf", "-inf" or 16 hex digits}
    {"~dict": [[key, value], ..]}               (some key is not a str, or starts with `~`)
    {"~enum": [qualified name, value]}          (known classes only, see `register_enum`)
    {"~object": [qualified name, {field: value}]}    (known classes only, see `register_type`; of a pydantic model also
                                                "_set", the names of the fields that were given, if not all were,
                                                "_extra" and "_private")

Types are matched exactly: a subclass (OrderedDict, namedtuple, a str with methods) would come back as its
base, so it is refused.
"""

from sagaz_tiering.codec.typed_json.classes import StoredObject, register_enum, register_type, stored_object
from sagaz_tiering.codec.typed_json.read import from_tagged
from sagaz_tiering.codec.typed_json.shape import LARGE, PastBudget, Shape, private_copy, shape_of, too_deep
from sagaz_tiering.codec.typed_json.text import Encoding, dumps, loads
from sagaz_tiering.codec.typed_json.write import MAX_DEPTH, tag

__all__ = [
    "LARGE",
    "MAX_DEPTH",
    "Encoding",
    "PastBudget",
    "Shape",
    "StoredObject",
    "dumps",
    "from_tagged",
    "loads",
    "private_copy",
    "register_enum",
    "register_type",
    "shape_of",
    "stored_object",
    "tag",
    "too_deep",
]
