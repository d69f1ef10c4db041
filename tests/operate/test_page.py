"""The status page in a real browser, on a running demo: it updates, contacts no other host, fits a telephone, and works without a mouse."""

import re
import signal
import unittest

from operate import LONG, Demo, browser, chromium, get, skip

GRAPHS = ("Throughput", "Latency, p99", "Lag", "Concurrency load", "Cache")
PIPELINES = ("navigation", "orders", "reactions")


class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.chromium = None
        if not chromium():
            return
        cls.demo = Demo()
        cls.addClassCleanup(cls.demo.stop)
        cls.chromium = cls.enterClassContext(browser())

    def setUp(self):
        if not self.chromium:
            skip(self, "needs a Chromium (Debian: chromium-headless-shell)")

    def opened(self, **context):
        """Returns the page once it shows all pipelines. Errors on the page fail the test at its end."""
        page = self.chromium.new_page(**context)
        self.addCleanup(page.close)
        wrong, asked = [], []
        page.on("console", lambda line: wrong.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.set_default_timeout(LONG * 1000)
        page.goto(f"http://{self.demo.address}/")
        for name in PIPELINES:
            page.get_by_role("heading", name=re.compile(f"^{name}")).wait_for()
        self.addCleanup(lambda: self.assertEqual(wrong, []))
        self.addCleanup(lambda: self.assertEqual([url for url in asked if not url.startswith(f"http://{self.demo.address}/")], []))
        return page

    @staticmethod
    def way(page):
        """The numbers on the picture of the first pipeline."""
        return page.get_by_role("list", name="Path of a record through navigation").inner_text()

    def changed(self, page, before):
        page.wait_for_function("before => document.querySelector('ol').innerText !== before", arg=before)
        return self.way(page)

    def test_it_lives(self):
        page = self.opened()
        self.assertLess(len(get(f"http://{self.demo.address}/")), 100_000)
        page.wait_for_function("() => [...document.querySelectorAll('.edge b')].filter(e => /[1-9]/.test(e.textContent)).length > 10")
        first = self.way(page)
        for part in ("Kafka", "decode", "lanes", "steps", "encode", "publish", "commit", "dead letters"):
            self.assertIn(part, first)
        self.changed(page, self.changed(page, first))
        for pipeline in PIPELINES:
            section = page.get_by_role("region", name=re.compile(f"^{pipeline}"))
            for title in GRAPHS:
                graph = section.get_by_role("img", name=re.compile(f"^{title}, now: .*[0-9]"))
                graph.wait_for(state="attached")
                self.assertGreater(len(graph.locator("polyline").first.get_attribute("points").split()), 1, f"{pipeline}: {title}")
        # The page shows what the process reports.
        taken = float(page.locator(".edge b").first.inner_text().removesuffix("/s").replace(",", "").replace(" k", "e3"))
        self.assertGreater(taken, 0)

    def test_dead_letters_are_not_shown_as_published(self):
        page = self.opened()

        def only_dead_letters(route):
            answer = route.fetch()
            route.fulfill(response=answer, body=re.sub(r"^(messina_published_total\{.*\}) .*", r"\1 0", answer.text(), flags=re.M))

        page.route("**/metrics", only_dead_letters)
        says = "many => [...document.querySelectorAll('.edge')].filter(e => e.textContent === '0/s published').length === many"
        page.wait_for_function(says, arg=len(PIPELINES))
        # The brokers still acknowledge them.
        self.assertRegex(self.way(page), r"publish\s+p50 \d")

    def test_it_fits_a_telephone(self):
        for scheme in ("light", "dark"):
            page = self.opened(viewport={"width": 360, "height": 740}, color_scheme=scheme)
            for summary in page.locator("summary").all():
                summary.click()
            self.assertLessEqual(page.evaluate("document.documentElement.scrollWidth"), 360)

    def test_it_is_light_and_dark(self):
        def brightness(scheme):
            page = self.opened(color_scheme=scheme)
            return [
                sum(map(int, re.findall(r"\d+", page.evaluate(f"getComputedStyle(document.body).{of}"))[:3])) for of in ("backgroundColor", "color")
            ]

        (light, on_light), (dark, on_dark) = brightness("light"), brightness("dark")
        self.assertGreater(light - on_light, 400)
        self.assertGreater(on_dark - dark, 400)

    def test_it_needs_no_mouse(self):
        page = self.opened()
        page.keyboard.press("Tab")
        self.assertEqual(page.evaluate("document.activeElement.id"), "skip")
        pause = page.get_by_role("button", name="Pause")
        while not pause.evaluate("e => e === document.activeElement"):
            page.keyboard.press("Tab")
        while page.evaluate("document.activeElement.tagName") != "SUMMARY":
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        table = page.get_by_role("region", name="Partitions of navigation")
        table.wait_for()
        # Focus and open parts stay as they are while values change.
        self.changed(page, self.changed(page, self.way(page)))
        self.assertEqual(page.evaluate("document.activeElement.tagName"), "SUMMARY")
        self.assertGreater(table.get_by_role("row").count(), 8)
        page.keyboard.press("Tab")
        self.assertTrue(table.evaluate("e => e === document.activeElement"))
        pause.press("Space")
        self.assertEqual(pause.get_attribute("aria-pressed"), "true")
        state = page.get_by_role("status")
        self.assertEqual(state.inner_text(), "paused: showing old data")
        page.wait_for_timeout(2_500)
        still = self.way(page)
        page.wait_for_timeout(5_000)
        self.assertEqual(self.way(page), still)
        self.assertEqual(state.inner_text(), "paused: showing old data")
        pause.press("Space")
        self.changed(page, still)
        self.assertEqual(state.inner_text(), "ready")

    def test_a_frozen_process_is_not_shown_as_ready(self):
        page = self.opened()
        state, pause = page.get_by_role("status"), page.get_by_role("button", name="Pause")
        says = "text => document.getElementById('state').textContent === text"
        page.wait_for_function(says, arg="ready")
        [demo] = self.demo.processes
        self.addCleanup(demo.send_signal, signal.SIGCONT)
        demo.send_signal(signal.SIGSTOP)
        page.wait_for_function(says, arg="no answer: showing old data")
        self.assertEqual(state.get_attribute("class"), "bad")
        # A request is on its way by then, and its end must not change the message.
        page.wait_for_timeout(2_500)
        pause.click()
        page.wait_for_timeout(9_000)
        self.assertEqual(state.inner_text(), "paused: showing old data")
        demo.send_signal(signal.SIGCONT)
        page.wait_for_timeout(2_500)
        self.assertEqual(state.inner_text(), "paused: showing old data")
        pause.click()
        page.wait_for_function(says, arg="ready")
        self.assertEqual(state.get_attribute("class"), "")


if __name__ == "__main__":
    unittest.main()
