"""The contributor's daemon: trains what it is assigned, commits before it shows, opens what is drawn."""
