"""A folder with the user's own data, in WhatsUp's form."""

from pathlib import Path

from adaptvis_plugin.data.dataset import Rows, Source
from adaptvis_plugin.data.questions import read_questions, write_questions
from adaptvis_plugin.data.whatsup.folder import Layout, own
from adaptvis_plugin.data.whatsup.rows import build_rows, compare


def own_folder(name: str, folder: Path) -> Source:
    """Return the folder as the source of a table.

    Raises:
        DataError: If the folder has no data of this name, or its annotations are not what they should be.
    """
    layout = own(name, folder)
    return Source(str(folder), lambda: _read(name, layout), layout.files())


def _read(name: str, layout: Layout) -> Rows:
    entries, _ = layout.read()
    if layout.questions is None:
        questions = write_questions([entry.captions for entry in entries])
        return Rows(build_rows(name, entries, questions))
    questions = read_questions(layout.questions)
    verified = (compare(name, entries, questions),)
    return Rows(build_rows(name, entries, questions), layout.questions.name, verified)
