"""The comparison of all methods: a Snakemake workflow."""
