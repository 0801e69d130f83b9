"""Every tensor of a pass recorded, and two recordings walked until they part."""
