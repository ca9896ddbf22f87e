#!/bin/sh
# Says when init began, and ends: for the benchmark.
/bin/machine tsc
/bin/machine end
