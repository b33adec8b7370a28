/**
 * Sends tasks to a Penstock gateway and reads their results: see {@link dev.penstock.Client}.
 * The generated stubs are in {@code dev.penstock.v1}.
 */
package dev.penstock;
