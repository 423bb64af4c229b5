"""Training and measuring the models of the paper's four tasks: classes of a picture, its regions, its objects."""
