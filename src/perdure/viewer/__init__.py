"""`perdure ui`: what is kept, as a page for the person in front of this machine. It only reads.

Reading order: `serving` (the socket and its end), `application` (which path shows what), `access` (who may look),
`pages` (what is shown).
"""

from perdure.viewer.serving import serve

__all__ = ["serve"]
