"""The job that writes packs anew without what is dead in them."""
