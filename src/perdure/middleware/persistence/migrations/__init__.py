"""Brings a database to the schema that this perdure needs: each numbered file of `sql/…/migrations`, once."""
