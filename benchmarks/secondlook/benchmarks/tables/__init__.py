"""The results of measurements as tables of the documents; `secondlook.benchmarks.figures` puts them there."""
