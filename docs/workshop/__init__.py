"""What builds the site, and the small networks of its pictures."""
