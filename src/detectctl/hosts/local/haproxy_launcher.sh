#!/bin/sh
# Reads the wrapper beside the link by which it was called: that may be on a file system where nothing can be executed.
. "$0.sh"
