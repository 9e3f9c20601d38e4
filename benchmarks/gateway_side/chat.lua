-- wrk's part of `bin/bench gateway`: one chat request over and over, and its figures as one line of JSON.
-- The request's body is the argument behind `--`.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"

function init(args)
    wrk.body = args[1]
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '\n{"requests": %d, "seconds": %.6f, "p50_us": %.1f, "p99_us": %.1f, "failed": %d, "refused": %d}\n',
        summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
        errors.connect + errors.read + errors.write + errors.timeout, errors.status
    ))
end
