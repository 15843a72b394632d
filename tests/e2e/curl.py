"""The few options of curl that the documentation uses, for machines without it."""

import argparse
import sys
import urllib.error
import urllib.request


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-s", action="store_true")
    parser.add_argument("-X", default="GET")
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-d", "--data-binary")
    parser.add_argument("url")
    options = parser.parse_args()
    data = sys.stdin.buffer.read() if options.data_binary == "@-" else options.data_binary
    request = urllib.request.Request(
        options.url,
        data.encode() if isinstance(data, str) else data,
        dict(field.split(": ", 1) for field in options.H),
        method=options.X,
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            sys.stdout.buffer.write(answer.read())
    except urllib.error.HTTPError as error:
        sys.stdout.buffer.write(error.read())


if __name__ == "__main__":
    main()
