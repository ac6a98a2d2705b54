"""When does contrast with the base help? Tasks, adapters, search and report of docs/study.md."""
