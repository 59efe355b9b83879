"""How much time and memory a run will take, before it is started."""
