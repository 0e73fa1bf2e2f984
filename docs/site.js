// From a disk a browser loads scripts, but neither workers nor data. So the search runs in the page there,
// and its index is a script (docs/hooks.py).
if (location.protocol === "file:") {
  const script = name => new Promise(done => {
    const element = document.createElement("script");
    element.src = `${base_url}/search/${name}`;
    element.onload = done;
    document.head.append(element);
  });
  window.Worker = class {
    async postMessage({init, query}) {
      if (init && document.querySelector("#mkdocs-search-query")) {
        await Promise.all(["lunr.js", "search_index.js"].map(script));
        const {config, docs} = search_index;
        lunr.tokenizer.separator = new RegExp(config.separator);
        this.documents = Object.fromEntries(docs.map(one => [one.location, one]));
        this.index = lunr(function () {
          this.ref("location");
          this.field("title");
          this.field("text");
          docs.forEach(one => this.add(one));
        });
        this.onmessage({data: {config}});
        this.onmessage({data: {allowSearch: true}});
      } else if (query) {
        const found = this.index.search(query).map(({ref}) => this.documents[ref]);
        this.onmessage({data: {results: found.map(one => ({...one, summary: one.text.slice(0, 200)}))}});
      }
    }
  };
}
