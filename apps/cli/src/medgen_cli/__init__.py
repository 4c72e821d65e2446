"""medgen: from a folder of medical images to a generator and a report, on the command line."""
