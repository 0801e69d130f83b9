// The order of search results: the page of the file that was asked for, then files beside their
// maths, pages to play with and notebooks, before the reference and long tables.
var Scorer = {
  score: ([page, , anchor, , score]) => {
    const words = (new URLSearchParams(location.search).get("q") || "").trim().toLowerCase();
    const name = page.split("/").pop().toLowerCase();
    const wanted = name === words.replace(/\.py$/, "").replace(/[\s-]+/g, "_") ? 40 : 0;
    const places = [
      [/^docs\/code\//, 12], [/^docs\/play\//, 11], [/^notebooks\//, 8], [/^docs\/api\//, -4],
      [/^docs\/(map|concepts|assignments_mutations)$/, -8],
    ];
    const place = places.find(([path]) => path.test(page));
    return score + wanted + (place ? place[1] : 0) - (anchor ? 1 : 0);
  },
  objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
