"""The one way to a Supabase project: its client, the time a request may take, and what its errors mean."""
