/**
 * What this browser remembers about one room: who it is, which token proves it, and a vote that is still on its way.
 *
 * localStorage can be missing or full (private windows, embedded views). The page then works from memory, and only
 * forgets when it is reloaded.
 */
const fallback = new Map();

export function recall(kind, roomCode) {
  try {
    return JSON.parse(localStorage.getItem(key(kind, roomCode))) ?? fallback.get(key(kind, roomCode)) ?? null;
  } catch {
    return fallback.get(key(kind, roomCode)) ?? null;
  }
}

/** Returns whether a reload will find it again. */
export function remember(kind, roomCode, value) {
  fallback.set(key(kind, roomCode), value);
  try {
    localStorage.setItem(key(kind, roomCode), JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

export function forget(kind, roomCode) {
  fallback.delete(key(kind, roomCode));
  try {
    localStorage.removeItem(key(kind, roomCode));
  } catch {
    // It was never stored there.
  }
}

/** Calls back when another tab of this browser changes the value. Returns the function that stops listening. */
export function onChangeElsewhere(kind, roomCode, callback) {
  const heard = (event) => {
    if (event.key === key(kind, roomCode)) callback();
  };
  globalThis.addEventListener?.("storage", heard);
  return () => globalThis.removeEventListener?.("storage", heard);
}

function key(kind, roomCode) {
  return `votemill.${kind}.${roomCode}`;
}
