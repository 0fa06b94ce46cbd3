"""Run folders: what a fit writes as it goes, how it is checked when read, and how a fit goes on from it."""
