"""Read files by path or URL, write them atomically (`publish`), and check outputs before a command starts."""

from asr_emapl.storage.atomic import Place, publish, replace_link, sync, write, writing
from asr_emapl.storage.files import (
    close_files,
    is_url,
    join,
    open_file,
    read,
    remove,
    require_file,
    sha256,
    size,
    split,
)
from asr_emapl.storage.json_text import (
    check_json_lines,
    finite_number,
    number,
    parse_json,
    parse_object,
    read_object,
)
from asr_emapl.storage.outputs import check_outputs
from asr_emapl.storage.text_files import (
    PACKED,
    BrokenLineError,
    Line,
    parse_lines,
    placed_lines,
    raise_broken,
    raw_lines,
    read_document,
    read_lines,
    unpacked,
)
