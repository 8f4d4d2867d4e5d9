"""Files that are whole or absent, and training that resumes."""
