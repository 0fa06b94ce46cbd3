"""The well-known programs of Pyro's examples and tutorials, written anew, in short, in their authors' manner."""
