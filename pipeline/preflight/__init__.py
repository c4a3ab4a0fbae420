"""Will it fit? Answered from the models' configs, with neither a GPU nor the weights."""
