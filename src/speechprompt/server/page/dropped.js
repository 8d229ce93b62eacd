// Files of a drop, folders walked, each with the name of the folder that it lay in ("" for none).

const MOST_FILES = 2000;

export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const pairs = [];
  if (!entries.length) return [...transfer.files].map((file) => ["", file]);
  for (const entry of entries) await walk(entry, "", pairs);
  return pairs;
}

async function walk(entry, folder, pairs) {
  if (pairs.length >= MOST_FILES || entry.name.startsWith(".")) return;
  if (entry.isFile) {
    pairs.push([folder, await new Promise((resolve, reject) => entry.file(resolve, reject))]);
    return;
  }
  for (const child of await children(entry)) await walk(child, entry.name, pairs);
}

// A reader gives a hundred or so at a time, and nothing at the end.
async function children(directory) {
  const reader = directory.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found;
    found.push(...some);
  }
}
