"""Floor 4 · checkup. Gathers what `policy/diagnosis` judges: from the machine and the file, and from the remote end."""
