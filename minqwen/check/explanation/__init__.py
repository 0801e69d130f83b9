"""`minqwen explain`: a concept and its mistakes, with numbers."""
