"""Studies: arms that differ in named options, trained with several seeds and compared."""
