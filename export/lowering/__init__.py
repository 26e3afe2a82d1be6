"""One graph rewrite a file, chosen by the capability record of a device."""
