"""The perf harness: Hudsucker beside the best-tuned HAProxy and nginx, on this machine, in alternating rounds.

machine   which cores, what this machine is, and whether it is quiet enough to compare
proxies   who is compared, started with the configurations of perf/peers
loads     the table of loads with their bars
traffic, memory, real_tls, micro   how a load of each kind is measured
rounds    alternation, repeats, further rounds when a bar is in doubt
paired, bars   the statistics and the verdicts
session   one run: node, proxies, calibration
options, guard   what was asked for; alone on the machine, and nothing outlives the run
terminal, plots, page   what a person sees
"""
