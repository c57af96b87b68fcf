"""Studies: named arms that differ in a few options, each trained with several seeds, compared in a report.

Runs ``lightning fit`` as processes; neither Lightning nor the training code is imported.
"""
