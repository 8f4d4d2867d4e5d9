"""Whether a document says what files of results do, and no other number."""

import re

from test_imports import ROOT


def section(name, title):
  """The text below a heading of the second level."""
  text = (ROOT / name).read_text().split(f"\n## {title}\n")[1]
  return text.split("\n## ")[0]


def rows_of(text):
  """A text's table rows, whatever the width of their columns."""
  rule = r"\|(?!\s?-+[-:| ]*$)"
  lines = (line for line in text.splitlines() if re.match(rule, line))
  return {tuple(map(str.strip, line.split("|"))) for line in lines}


def flat(text):
  """Prose in one line: no tables, blocks, pictures, headings or list marks."""
  text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
  text = re.sub(r"^(\||#|!\[).*$", "", text, flags=re.MULTILINE)
  return " ".join(re.sub(r"^- ", "", text, flags=re.MULTILINE).split())


def check(name, title, sentences, elsewhere=()):
  """Each sentence holds and is there; no number is in any other one."""
  text = flat(section(name, title))
  for holds, sentence in sentences:
    assert holds, f"no longer so: {sentence}"
    assert sentence in text, f"{name} lacks: {sentence}"
    text = text.replace(sentence, "")
  rest = re.sub(r"`[^`]*`|\bn=\d+", "", text)
  for known in elsewhere:
    rest = rest.replace(known, "")
  assert not re.findall(r"[^.]*\d[^.]*", rest)
