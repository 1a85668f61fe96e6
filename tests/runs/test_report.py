from html.parser import HTMLParser

from matplotlib.figure import Figure

from pauca.runs import Report


def test_the_page_is_self_contained_and_escaped(tmp_path):
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1])
    report = Report("few & ripe", "<seed 0>")
    report.heading("Events")
    report.table(["name", "deg/s"], [["a<b", 1.5], ["c", 1070559]], caption="n & m")
    report.figure(figure, 'the "velocity"')
    report.save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()

    sources: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            sources.extend(value or "" for name, value in attrs if name in ("src", "href"))

    Reader().feed(page)
    assert len(sources) == 1
    assert sources[0].startswith("data:image/png;base64,")
    assert "few &amp; ripe" in page
    assert "a&lt;b" in page
    assert '<td class="number">1.5</td>' in page
    assert '<td class="number">1,070,559</td>' in page
