"""Everything that is kept, in a folder of plain files: to move it to another backend, or to put it away.

manifest.json     what this is, of which version, how many lines, and the checksum of the next. Written last
turns.jsonl       a line for each conversation, its turns after it in their order, each with its files
files/<sha256>    the content of each file, once
"""
